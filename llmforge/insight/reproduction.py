"""Whether a run could be repeated here, and whether a repetition came out the same.

Code, packages, machine and data are held against what the run recorded of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from llmforge.insight.metrics import metric_rows
from llmforge.rundir import RunDirectory, RunRecord


@dataclass(frozen=True)
class Change:
    """What is another here than when the run was trained: ``recorded`` then, ``here`` now."""

    name: str
    recorded: Any
    here: Any


@dataclass(frozen=True)
class Repetition:
    """How the metrics of a repetition compare.

    Attributes:
        rows: rows that both runs have.
        identical: whether every deterministic value is the same, bit for bit.
        furthest: the largest difference, relative to the recorded value.
        where: metric and step of it.
        within: whether that is within the tolerance, and no row or value is missing.
    """

    rows: int
    identical: bool
    furthest: float
    where: str
    within: bool


def changes_since(record: RunRecord) -> list[Change]:
    """Return what is another here than the record of a run says; the result may depend on it."""
    from llmforge.run.setup.provenance import provenance

    then = record.provenance
    packages: Mapping[str, str] = then.get("packages") or {}
    now = provenance([name for name in packages if name != "llmforge"])
    return [
        *_code(then.get("git") or {}, now.get("git") or {}),
        *_differing("package ", packages, {**now["packages"]}),
        *_differing("", _machine(then), _machine(now)),
    ]


def data_changes(record: RunRecord, other: RunRecord) -> list[Change]:
    """Return fingerprints of data and tokenizer that a repetition has otherwise."""
    return list(_differing("fingerprint of ", record.fingerprints, other.fingerprints))


def compare_metrics(
    recorded: RunDirectory, repeated: RunDirectory, *, tolerance: float
) -> Repetition:
    """Compare the metrics of two runs row by row.

    Args:
        recorded: the run.
        repeated: its repetition.
        tolerance: the largest relative difference that is still the same.

    Raises:
        RunError: a row is damaged.
    """
    rows, identical, furthest, where = 0, True, 0.0, ""
    for one, other in zip_longest(metric_rows(recorded.metrics), metric_rows(repeated.metrics)):
        if one is None or other is None or one.keys() != other.keys():
            step = (one or other or {}).get("step")
            return Repetition(rows, False, math.inf, f"the row of step {step}", False)
        rows += 1
        for name, value in one.items():
            if repr(value) == repr(other[name]):
                continue
            identical = False
            distance = _distance(value, other[name])
            if distance > furthest:
                furthest, where = distance, f"{name} at step {one.get('step')}"
    return Repetition(rows, identical, furthest, where, identical or furthest <= tolerance)


def _machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts.get(name) for name in ("python", "platform", "cpu_count")}


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    commits = (str(then.get("commit") or "none")[:12], str(now.get("commit") or "none")[:12])
    if commits[0] != commits[1]:
        yield Change("commit", *commits)
    yield from _differing("changed file ", then.get("changed") or {}, now.get("changed") or {})


def _differing(prefix: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield Change(f"{prefix}{name}", then.get(name), now.get(name))


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return math.inf
    if not math.isfinite(one) or not math.isfinite(other):
        return math.inf
    return abs(one - other) / max(abs(one), 1e-12)
