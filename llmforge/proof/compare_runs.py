"""Comparing a run that was killed with one that was not: bit for bit, or within a tolerance."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from llmforge.checkpoint import Checkpoint, list_checkpoints, read_trainer, verify
from llmforge.checkpoint.format import Part, tensor_files
from llmforge.errors import CheckpointError
from llmforge.proof.certificate import Comparison, Difference
from llmforge.proof.compare_tensors import different_tensors
from llmforge.rundir import RunDirectory, read_completion, read_record

_SHOWN = 20
"""Differences that a comparison keeps."""

_POSITION = ("step", "epoch", "tokens_seen")
_ABOUT_THE_MACHINE = ("reasons", "matmul_speed")
"""Words and measured speeds beside what ``auto`` chose."""


class _Sides(NamedTuple):
    reference: RunDirectory
    killed: RunDirectory


def compare_runs(
    reference: RunDirectory, killed: RunDirectory, *, tolerance: float = 0.0
) -> tuple[Comparison, ...]:
    """Compare all that a run killed and resumed must have in common with one never killed.

    Args:
        reference: the run that was not killed.
        killed: the run that was.
        tolerance: relative, of numbers; 0 compares bit for bit. With one, texts that are sampled
            are not judged: one other token, and they have nothing in common.
    """
    sides = _Sides(reference, killed)
    judged: dict[str, Iterator[Difference]] = {
        "weights": _tensors(sides, "model", tolerance),
        "optimizer state": _tensors(sides, "optimizer", tolerance),
        "trainer state": _trainer(sides, tolerance),
        "best checkpoint": _best(sides),
        "metrics history": _rows(sides, lambda run: run.metrics, tolerance),
        "data order": _data_order(sides),
        "generated samples": _rows(sides, lambda run: run.samples, tolerance),
        "what auto chose": _auto(sides),
        "how the run ended": _ending(sides, tolerance),
    }
    return tuple(
        _comparison(name, list(found), sides, tolerance=tolerance) for name, found in judged.items()
    )


def _comparison(
    name: str, differences: Sequence[Difference], sides: _Sides, *, tolerance: float
) -> Comparison:
    reference, killed = (_hash_of(name, run) for run in sides)
    judged = not tolerance or name not in ("generated samples", "best checkpoint")
    if not differences:
        result = "equal" if reference == killed or not tolerance else "close"
    else:
        result = "differs" if judged else "not judged"
    return Comparison(
        name=name,
        result=result,  # type: ignore[arg-type]
        reference=reference,
        killed=killed,
        count=len(differences),
        differences=tuple(_kept(differences)),
    )


def _kept(differences: Sequence[Difference]) -> list[Difference]:
    """Return the first differences, and the largest one in place of the last of them."""
    first = list(differences[:_SHOWN])
    largest = max(differences, key=lambda item: item.largest or 0.0, default=None)
    if largest is not None and largest not in first:
        first[-1] = largest
    return first


# Checkpoints ---------------------------------------------------------------------------------


def _tensors(sides: _Sides, part: Part, tolerance: float) -> Iterator[Difference]:
    """Yield what differs at the first checkpoint of both that differs, and in their last ones."""
    mine, theirs = (
        {item.step: item for item in list_checkpoints(run.checkpoints)} for run in sides
    )
    last, other = max(mine, default=None), max(theirs, default=None)
    if last != other:
        yield Difference(step=other, name="last checkpoint", what=f"of step {other}, not {last}")
    for step in sorted(mine.keys() & theirs.keys()):
        found = [*_damage(theirs[step]), *_compared(mine[step], theirs[step], part, tolerance)]
        if found:
            yield from found
            return


def _compared(
    mine: Checkpoint, theirs: Checkpoint, part: Part, tolerance: float
) -> Iterator[Difference]:
    if _part_hash(mine, part) == _part_hash(theirs, part):
        return
    try:
        yield from different_tensors(
            mine.path, theirs.path, part=part, step=mine.step, tolerance=tolerance
        )
    except CheckpointError as error:
        yield Difference(step=mine.step, name=theirs.path.name, what=error.message)


def _damage(checkpoint: Checkpoint) -> Iterator[Difference]:
    for wrong in verify(checkpoint.path):
        yield Difference(step=checkpoint.step, name=checkpoint.path.name, what=wrong)


def _trainer(sides: _Sides, tolerance: float) -> Iterator[Difference]:
    """Yield what differs in step, position, losses, stopping and components' state."""
    mine, theirs = (
        {item.step: item for item in list_checkpoints(run.checkpoints)} for run in sides
    )
    for step in sorted(mine.keys() & theirs.keys()):
        states = _trainer_state(mine[step]), _trainer_state(theirs[step])
        found = list(_different(*states, tolerance))
        yield from (Difference(step=step, **item) for item in found)
        if found:
            return


def _trainer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        return dict(_leaves(read_trainer(checkpoint.path)))
    except CheckpointError as error:
        return {"trainer.json": error.message}


def _best(sides: _Sides) -> Iterator[Difference]:
    mine, theirs = map(_best_of, sides)
    if (mine and mine.step) != (theirs and theirs.step):
        steps = [None if item is None else item.step for item in (mine, theirs)]
        yield Difference(step=steps[1], name="best", what=f"step {steps[1]}, not {steps[0]}")
    elif mine and theirs and _part_hash(mine, "model") != _part_hash(theirs, "model"):
        yield Difference(step=mine.step, name="best", what="has other weights")


def _best_of(run: RunDirectory) -> Checkpoint | None:
    best = [item for item in list_checkpoints(run.checkpoints) if item.is_best]
    return best[-1] if best else None


# Rows and records ----------------------------------------------------------------------------


def _rows(
    sides: _Sides, place: Callable[[RunDirectory], Path], tolerance: float
) -> Iterator[Difference]:
    mine, theirs = (_read_rows(place(run)) for run in sides)
    for number, (row, other) in enumerate(zip_longest(mine, theirs), start=1):
        if row is None or other is None or row.get("step") != other.get("step"):
            yield _other_row(number, row, other)
            return  # from here on they are not about the same steps
        for item in _different(dict(_leaves(row)), dict(_leaves(other)), tolerance):
            yield Difference(step=other.get("step"), **item)


def _other_row(
    number: int, row: Mapping[str, Any] | None, other: Mapping[str, Any] | None
) -> Difference:
    if other is None:
        assert row is not None
        return Difference(step=row.get("step"), name=f"row {number}", what="is missing")
    step = other.get("step")
    instead = "there is none" if row is None else f"one of step {row.get('step')}"
    return Difference(step=step, name=f"row {number}", what=f"is of step {step}, not {instead}")


def _data_order(sides: _Sides) -> Iterator[Difference]:
    """Yield where the runs were at other data: the order follows from seed, data and position."""
    records = [read_record(run) for run in sides]
    for item in _different(records[0].fingerprints, records[1].fingerprints, 0.0):
        yield Difference(**{**item, "name": f"fingerprint of {item['name']}"})
    mine, theirs = (_read_rows(run.metrics) for run in sides)
    for row, other in zip(mine, theirs, strict=False):
        pair = [{name: item.get(name) for name in _POSITION} for item in (row, other)]
        for item in _different(pair[0], pair[1], 0.0):
            yield Difference(step=other.get("step"), **item)
    states = [_last_state(run) for run in sides]
    for item in _different(states[0], states[1], 0.0):
        yield Difference(step=records[1].step, **item)


def _last_state(run: RunDirectory) -> dict[str, Any]:
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        return {}
    state = _trainer_state(checkpoints[-1])
    return {name: state.get(name) for name in ("step", "sequences")}


def _auto(sides: _Sides) -> Iterator[Difference]:
    mine, theirs = (dict(_leaves(auto_choices(read_record(run).resolved))) for run in sides)
    yield from (Difference(**item) for item in _different(mine, theirs, 0.0))


def auto_choices(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``auto`` became, without the words and measurements beside it."""
    found = {name: value for name, value in resolved.items() if name not in _ABOUT_THE_MACHINE}
    return found | {"kernels": resolved.get("kernels", {}).get("chosen", {})}


def _ending(sides: _Sides, tolerance: float) -> Iterator[Difference]:
    mine, theirs = map(_ended, sides)
    yield from (Difference(**item) for item in _different(mine, theirs, tolerance))


def _ended(run: RunDirectory) -> dict[str, Any]:
    """Return how a run ended: its record, its final metrics, what lets the next command skip it."""
    record = read_record(run)
    done = read_completion(run.root, run.id)
    names = ("state", "reason", "steps", "final_loss", "best_loss", "best_step", "epochs")
    found = {name: getattr(done, name) for name in names} if done is not None else {}
    ended = {"run.json": record.state, "exit_reason": record.exit_reason, **found}
    if run.summary.exists():
        ended["metrics.json"] = json.loads(run.summary.read_bytes())
    return dict(_leaves(ended))


# Values and hashes ---------------------------------------------------------------------------


def _different(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float
) -> Iterator[dict[str, Any]]:
    """Yield the fields of a :class:`Difference` for each value that is not the same."""
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        value, other = mine.get(name), theirs.get(name)
        if _same(value, other, tolerance):
            continue
        yield {
            "name": name,
            "what": f"{_shown(other)}, not {_shown(value)}",
            "largest": _gap(value, other),
        }


def _same(value: Any, other: Any, tolerance: float) -> bool:
    if _is_number(value) and _is_number(other):
        if value == other or (math.isnan(value) and math.isnan(other)):
            return True
        return bool(abs(value - other) <= tolerance * max(abs(value), abs(other)))
    return bool(value == other)


def _gap(value: Any, other: Any) -> float | None:
    return abs(value - other) if _is_number(value) and _is_number(other) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value inside tables and lists by its dotted name."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for name, item in items:
        yield from _leaves(item, f"{prefix}.{name}" if prefix else str(name))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _part_hash(checkpoint: Checkpoint, part: Part) -> str:
    files = checkpoint.manifest.files
    names = tensor_files(files, part)
    return _digest({name: files[name].sha256 for name in names})


def _hash_of(name: str, run: RunDirectory) -> str:
    """Return a hash of what a comparison is about, for the certificate."""
    checkpoints = list_checkpoints(run.checkpoints)
    last = checkpoints[-1] if checkpoints else None
    if name in ("weights", "optimizer state"):
        part: Part = "model" if name == "weights" else "optimizer"
        return _part_hash(last, part) if last else ""
    if name == "trainer state":
        return _digest(_trainer_state(last)) if last else ""
    if name == "best checkpoint":
        best = _best_of(run)
        return _part_hash(best, "model") if best else ""
    if name == "metrics history":
        return _digest(_read_rows(run.metrics))
    if name == "generated samples":
        return _digest(_read_rows(run.samples))
    if name == "data order":
        rows = [[row.get(key) for key in _POSITION] for row in _read_rows(run.metrics)]
        return _digest([read_record(run).fingerprints, rows, _last_state(run)])
    if name == "what auto chose":
        return _digest(auto_choices(read_record(run).resolved))
    return _digest(_ended(run))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
