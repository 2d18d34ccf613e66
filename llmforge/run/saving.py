"""The checkpoint writer of a run, told what belongs into each checkpoint."""

from __future__ import annotations

import logging
import math

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SavedCheckpoint,
    SelfDescription,
    preflight_space,
)
from llmforge.checkpoint.retention import apply_retention
from llmforge.courier import settle_superseded
from llmforge.events import CheckpointSaved
from llmforge.interfaces import EngineState
from llmforge.recipe import Recipe, to_toml
from llmforge.run.plan import Plan
from llmforge.run.stage import Stage
from llmforge.run.telemetry import Telemetry
from llmforge.run.uploading import UploadWatch

log = logging.getLogger("llmforge.run")

_CHECKPOINTS_AT_ONCE = 2
_TENSORS_PER_WEIGHT = 3


def open_writer(plan: Plan, stage: Stage, telemetry: Telemetry) -> CheckpointWriter | None:
    """Return the writer of the run's checkpoints, None when the recipe turns them off.

    Raises:
        CheckpointError: the disk has no room for two checkpoints, the old one and its successor,
            of weights and two moments each.
    """
    recipe, directory = plan.recipe, plan.directory
    if not recipe.checkpoint.enabled:
        return None
    directory.checkpoints.mkdir(exist_ok=True)
    weights = _whole_bytes(stage.engine.state())
    preflight_space(directory.checkpoints, _CHECKPOINTS_AT_ONCE * _TENSORS_PER_WEIGHT * weights)

    def saved(checkpoint: SavedCheckpoint) -> None:
        telemetry.sync_rows()
        log.debug("checkpoint %s saved in %.2f s", checkpoint.path.name, checkpoint.seconds)
        telemetry.event(
            CheckpointSaved(
                step=checkpoint.step,
                path=str(checkpoint.path.relative_to(directory.path)),
                size=checkpoint.size,
                is_best=checkpoint.is_best,
                seconds=checkpoint.seconds,
            )
        )

    parent, uploads = stage.point.checkpoint, telemetry.uploads
    return CheckpointWriter(
        directory.checkpoints,
        description=SelfDescription(
            recipe=to_toml(recipe.tables),
            recipe_hash=plan.identity.hash,
            tokenizer=directory.tokenizer,
        ),
        retention=_retention(recipe),
        on_saved=saved,
        protected=uploads.protected if uploads else tuple,
        elsewhere=telemetry.elsewhere,
        parent=None if parent is None else parent.step,
    )


def delete_uploaded(plan: Plan, uploads: UploadWatch) -> None:
    """Delete what was uploaded after the last checkpoint was saved, if the recipe wants that."""
    directory = plan.directory
    if uploads.elsewhere():
        apply_retention(
            directory.checkpoints,
            retention=_retention(plan.recipe),
            protected=uploads.protected(),
            elsewhere=uploads.elsewhere(),
        )
        settle_superseded(directory, on_change=uploads)


def _whole_bytes(state: EngineState) -> int:
    """Return the size of the weights of the whole model, of which this rank may hold a part."""
    total = 0
    for name, tensor in state.model.items():
        part = state.slices.get(name)
        count = tensor.numel() if part is None else math.prod(part.shape)
        total += count * tensor.element_size()
    return total


def _retention(recipe: Recipe) -> Retention:
    keys = recipe.checkpoint
    return Retention(keep_last=keys.keep_last, keep_best=keys.keep_best)
