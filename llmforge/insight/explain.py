"""Why two runs have different results: every difference between them, the likeliest cause first.

Nothing is measured here. How likely a difference is to explain others in the results follows from
what it can do: other data or another recipe changes what is learned, another seed moves a result
within its spread, another machine changes the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmforge.insight.compare import recipe_values
from llmforge.rundir import RunEntry
from llmforge.rundir.record import FINISHED

Likelihood = Literal["likely", "possible", "unlikely"]
_ORDER: tuple[Likelihood, ...] = ("likely", "possible", "unlikely")

_NUMERIC = ("torch", "numpy", "tokenizers", "transformers", "peft", "deepspeed", "llmforge")
_ROUNDING = ("device", "hardware", "micro_batch_size", "world_size", "compile", "backend")


@dataclass(frozen=True)
class Difference:
    """What differs between two runs, and what that can do to their results.

    Attributes:
        kind: recipe, data, code, seed, packages, hardware or length.
        name: of the value.
        left: of the first run; None where it has none.
        right: of the other one.
        likelihood: of explaining a difference in the results.
        why: the reason for that, in words.
    """

    kind: str
    name: str
    left: Any
    right: Any
    likelihood: Likelihood
    why: str


def differences(left: RunEntry, right: RunEntry) -> list[Difference]:
    """Return every difference between two runs that may matter, the likeliest cause first.

    Raises:
        RunError: a recipe cannot be read.
    """
    found = [
        *_length(left, right),
        *_data(left, right),
        *_recipe(left, right),
        *_code(left, right),
        *_resolved(left, right),
        *_packages(left, right),
    ]
    return sorted(found, key=lambda item: _ORDER.index(item.likelihood))


def _length(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    steps = left.record.step, right.record.step
    if steps[0] != steps[1]:
        ended = all(entry.state in FINISHED for entry in (left, right))
        why = "one was trained for longer" if ended else "one has not been trained to its end"
        yield Difference("length", "step", *steps, "likely", why)


def _data(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    whys = {
        "data": "they were trained on different data",
        "tokenizer": "their tokens differ, so losses per token cannot be compared",
    }
    for name, one, other in _differing(left.record.fingerprints, right.record.fingerprints):
        why = whys.get(name, "they started from something different")
        yield Difference(
            "data", name, one[:12] if one else one, other and other[:12], "likely", why
        )


def _recipe(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    keys = [entry.record.identity.get("keys", {}) for entry in (left, right)]
    for name, one, other in _differing(recipe_values(left), recipe_values(right)):
        if name == "run.seed":
            why = "another order of the data and other first weights: a spread, not a trend"
            yield Difference("seed", name, one, other, "possible", why)
        elif any(name in some for some in keys):
            why = "it changes what is computed"
            yield Difference("recipe", name, one, other, "likely", why)
        elif name.startswith(("train.", "backend.", "data.")):
            why = "how the same computation is carried out; the last digits may differ"
            yield Difference("recipe", name, one, other, "unlikely", why)


def _code(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    one, other = (entry.record.provenance.get("git") or {} for entry in (left, right))
    if one.get("commit") != other.get("commit"):
        before, after = (str(git.get("commit") or "none")[:12] for git in (one, other))
        why = "the code in the working directory is of another commit"
        yield Difference("code", "commit", before, after, "possible", why)
    for name, before, after in _differing(one.get("changed") or {}, other.get("changed") or {}):
        why = "the file was changed and not committed"
        yield Difference("code", name, before, after, "possible", why)


def _resolved(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    for name, one, other in _differing(left.record.resolved, right.record.resolved):
        if name == "precision":
            why = "numbers of another precision round differently at every step"
            yield Difference("hardware", name, one, other, "possible", why)
        elif name in _ROUNDING:
            why = "sums are taken in another order; the last digits may differ"
            yield Difference("hardware", name, one, other, "unlikely", why)
    here, there = (entry.record.provenance.get("cpu_count") for entry in (left, right))
    if here != there:
        why = "sums are taken in another order; the last digits may differ"
        yield Difference("hardware", "processors", here, there, "unlikely", why)


def _packages(left: RunEntry, right: RunEntry) -> Iterator[Difference]:
    facts = [entry.record.provenance for entry in (left, right)]
    versions = [{**(item.get("packages") or {}), "python": item.get("python")} for item in facts]
    for name, one, other in _differing(*versions):
        numeric = name in _NUMERIC
        why = "it computes" if numeric else "it does not compute"
        yield Difference("packages", name, one, other, "possible" if numeric else "unlikely", why)


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield name, left.get(name), right.get(name)
