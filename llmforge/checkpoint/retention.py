"""Which checkpoints stay. Run only after a newer one is valid."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmforge.checkpoint.format import Checkpoint, list_checkpoints
from llmforge.checkpoint.publish import delete

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many of the newest and of the best checkpoints stay; of each at least one does.

    So does, where ``keep_every`` is given, each whose step is a multiple of it.
    """

    keep_last: int = 3
    keep_best: int = 1
    keep_every: int | None = None


def to_delete(
    checkpoints: Sequence[Checkpoint],
    *,
    retention: Retention,
    best_steps: Sequence[int],
    pinned: Collection[int] = (),
    elsewhere: Collection[int] = (),
) -> list[Checkpoint]:
    """Return the checkpoints that may go, oldest first.

    Args:
        checkpoints: those on disk.
        retention: how many stay.
        best_steps: steps that were the best when they were saved, the best of all last.
        pinned: steps that stay whatever the numbers say: pinned by the user, or still uploading.
        elsewhere: steps that are safe in another place and need not stay here; the newest and
            the best do all the same.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
    newest = [checkpoint.step for checkpoint in ordered[-max(retention.keep_last, 1) :]]
    best = best_steps[-max(retention.keep_best, 1) :]
    every = retention.keep_every
    regular = [item.step for item in ordered if every and item.step % every == 0]
    needed = {*newest[-1:], *best[-1:], *pinned}
    keep = needed | ({*newest, *best, *regular} - set(elsewhere))
    return [checkpoint for checkpoint in ordered if checkpoint.step not in keep]


def apply_retention(
    directory: Path,
    *,
    retention: Retention,
    protected: Collection[int] = (),
    elsewhere: Collection[int] = (),
) -> list[int]:
    """Delete what :func:`to_delete` names below ``directory`` and return the deleted steps.

    A checkpoint that cannot be deleted stays and is logged: it costs space, not correctness.
    """
    checkpoints = list_checkpoints(directory)
    doomed = to_delete(
        checkpoints,
        retention=retention,
        best_steps=[item.step for item in checkpoints if item.is_best],
        pinned={*protected, *(item.step for item in checkpoints if item.is_pinned)},
        elsewhere=elsewhere,
    )
    deleted = []
    for checkpoint in doomed:
        try:
            delete(checkpoint.path)
        except OSError as error:
            _log.warning("%s could not be deleted: %s", checkpoint.path, error)
        else:
            deleted.append(checkpoint.step)
    return deleted
