"""What an objective compares with: numbers of the model a run starts from, for every row.

They are computed once, before the first step, and kept in the run and in each of its checkpoints. A
run that resumes, here or elsewhere, takes them from there: its own weights are others by then.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmforge.checkpoint.format import REFERENCE_FILE
from llmforge.data.example_batches import evaluation_batch, evaluation_order
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.distributed import Team
from llmforge.errors import CheckpointError, TrainingError
from llmforge.interfaces import IGNORE_INDEX, Engine, RunContext
from llmforge.progress import track
from llmforge.run.setup.build import PreparedData, training_batches
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_bytes

log = logging.getLogger("llmforge.run")

_SEAL, _OF, _SHA256 = "seal", "of", "sha256"

Splits = Mapping[str, TokenSplit | ExampleSplit]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Numbers for every row of every split.

    Attributes:
        values: fp32 [rows, n] by split.
        of: the fingerprint of the data whose rows they are of.
    """

    values: Mapping[str, NDArray[np.float32]]
    of: str

    @property
    def sha256(self) -> str:
        """Hash of the data's fingerprint and all numbers."""
        found = hashlib.sha256(self.of.encode())
        for name in sorted(self.values):
            found.update(f"{name} {self.values[name].shape}".encode())
            found.update(self.values[name].tobytes())
        return found.hexdigest()

    def write(self, path: Path) -> None:
        """Write it in one step."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(found) for name, found in self.values.items()}
        seal = json.dumps({_OF: self.of, _SHA256: self.sha256})  # one entry: more have no order
        write_bytes(path, save(tensors, {_SEAL: seal}))

    def put_into(self, splits: Splits) -> dict[str, TokenSplit | ExampleSplit]:
        """Return ``splits`` with it."""
        return {
            name: replace(split, reference=self.values[name])
            if isinstance(split, ExampleSplit)
            else split
            for name, split in splits.items()
        }


def fingerprint_of(splits: Splits, fingerprints: Mapping[str, str]) -> str:
    """Return what a reference depends on besides the model."""
    rows = {
        name: [split.rows, split.n_tokens]
        for name, split in splits.items()
        if isinstance(split, ExampleSplit)
    }
    text = json.dumps([dict(fingerprints), rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_reference(path: Path, *, of: str) -> Reference | None:
    """Return the reference in ``path``; None when there is none, or it is of other data.

    Raises:
        CheckpointError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            seal = json.loads(file.metadata()[_SEAL])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    found = Reference(values=values, of=seal[_OF])
    if found.sha256 != seal[_SHA256]:
        raise CheckpointError(f"{path} was altered: its SHA-256 does not match")
    return found if found.of == of else None


def with_reference(
    prepared: PreparedData, engine: Engine, run: RunContext, **how: Any
) -> tuple[PreparedData, Reference | None]:
    """Return data whose batches have what the objective compares with, and that by itself.

    Data of an objective that needs nothing is returned as it is, with None. Further arguments and
    errors are those of :func:`find_or_compute`.
    """
    if not prepared.objective.needs_reference:
        return prepared, None
    of = fingerprint_of(prepared.splits, prepared.fingerprints)
    found = find_or_compute(prepared.splits, engine, of=of, context=run.context, **how)
    splits = found.put_into(prepared.splits)
    batches = training_batches(splits["train"], run)
    return replace(prepared, splits=splits, batches=batches), found


def find_or_compute(
    splits: Splits,
    engine: Engine,
    *,
    of: str,
    directory: RunDirectory,
    checkpoint: Path | None,
    expected: str | None,
    rows: int,
    context: int,
    team: Team,
    check_stop: Callable[[], None],
) -> Reference:
    """Return the reference of a run: the one kept in it, else one computed now and kept.

    All ranks call it together, before a checkpoint is loaded.

    Args:
        splits: the rows.
        engine: with the weights that the run starts from.
        of: from :func:`fingerprint_of`.
        directory: of the run.
        checkpoint: the one that is resumed from, or None.
        expected: hash of the reference that earlier starts of the run had, or None.
        rows: rows computed at once, at most.
        context: of the model.
        team: ranks that take turns.
        check_stop: raises when a signal has arrived.

    Raises:
        CheckpointError: what earlier starts had is lost and not what is computed now.
        TrainingError: not even one row fits, or fewer than ``rows`` where ranks wait.
    """
    kept = _kept(directory, checkpoint, of=of) if team.place.is_leader else {}
    found = next(iter(team.broadcast(kept).values()), None)
    if found is None:
        log.info("computing what the objective compares with, once for this run")
        values = {
            name: _computed(
                split,
                engine,
                name=name,
                rows=rows,
                context=context,
                team=team,
                check_stop=check_stop,
            )
            for name, split in splits.items()
            if isinstance(split, ExampleSplit)
        }
        found = Reference(values=values, of=of)
    if expected is not None and found.sha256 != expected:
        raise CheckpointError(
            f"{directory.reference} is not what this run was started with, and no checkpoint has a "
            "sound copy that is",
            remedy=f"put a copy back, or start over: forge runs clear {directory.id}",
        )
    if team.place.is_leader and directory.reference not in kept:
        found.write(directory.reference)
    return found


def _kept(directory: RunDirectory, checkpoint: Path | None, *, of: str) -> dict[Path, Reference]:
    """Return the reference in the run directory, else that in the checkpoint, by its file."""
    copies = [] if checkpoint is None else [checkpoint / REFERENCE_FILE]
    for path in (directory.reference, *copies):
        try:
            found = read_reference(path, of=of)
        except CheckpointError as error:
            log.warning("%s", error.message)
            continue
        if found is not None:
            return {path: found}
    return {}


def _computed(
    split: ExampleSplit,
    engine: Engine,
    *,
    name: str,
    rows: int,
    context: int,
    team: Team,
    check_stop: Callable[[], None],
) -> NDArray[np.float32]:
    """Return the numbers of all rows, each rank computing its share of the batches."""
    while True:
        mine: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        try:
            with track(f"reference of {name}", total=split.sequences, unit="rows") as task:
                for batch_rows, counts in _turns(split, rows, team):
                    check_stop()
                    batch = dict(evaluation_batch(split, batch_rows, context=context))
                    if not counts:
                        batch["targets"] = torch.full_like(batch["targets"], IGNORE_INDEX)
                    values, _ = engine.evaluate(batch)
                    if counts:
                        mine.append((batch_rows, values.float().cpu().numpy()))
                    task.advance(len(batch_rows) * team.place.world_size)
        except torch.OutOfMemoryError as error:
            if team.place.world_size > 1 or rows == 1:
                raise TrainingError(
                    f"out of memory computing the reference of {rows} rows at once",
                    remedy=f"set train.micro_batch_size to less than {rows}"
                    if rows > 1
                    else "a smaller model or context, or bf16",
                ) from error
            rows //= 2
            continue
        shares = [item for share in team.gather(mine) for item in share]
        found = np.empty((split.rows, shares[0][1].shape[1]), np.float32)
        for batch_rows, numbers in shares:
            found[batch_rows] = numbers
        return found


def _turns(split: ExampleSplit, rows: int, team: Team) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Yield this rank's batches; all ranks have equally many, of which the last may not count."""
    ranks, rank = team.place.world_size, team.place.rank
    every = list(evaluation_order(split, batch_size=min(rows, split.sequences), ranks=ranks))
    for start in range(0, len(every), ranks):
        turn = every[start : start + ranks]
        yield (turn[rank], True) if rank < len(turn) else (turn[-1], False)
