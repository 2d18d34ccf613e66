"""The checkpoint writer of a run, told what belongs into each checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from llmforge.checkpoint import (
    CheckpointWriter,
    Crew,
    Retention,
    SavedCheckpoint,
    SelfDescription,
    preflight_space,
)
from llmforge.checkpoint.retention import apply_retention
from llmforge.courier import settle_superseded
from llmforge.distributed import Team
from llmforge.events import CheckpointSaved
from llmforge.interfaces import EngineState
from llmforge.recipe import Recipe, to_toml
from llmforge.run.plan import Plan
from llmforge.run.reporting.telemetry import Telemetry
from llmforge.run.reporting.upload_status import UploadWatch
from llmforge.run.setup.training_setup import TrainingSetup
from llmforge.rundir import RunDirectory

log = logging.getLogger("llmforge.run")

_CHECKPOINTS_AT_ONCE = 2
_TENSORS_PER_WEIGHT = 3


def open_writer(
    plan: Plan, setup: TrainingSetup, telemetry: Telemetry | None, *, team: Team
) -> CheckpointWriter | None:
    """Return this rank's writer of the run's checkpoints, None when the recipe turns them off.

    All ranks open theirs together; the leader has ``telemetry``.

    Raises:
        CheckpointError: the disk has no room for two checkpoints, the old one and its successor,
            of weights and two moments each, or is not the same for all ranks.
    """
    recipe, directory = plan.recipe, plan.directory
    if not recipe.checkpoint.enabled:
        return None
    weights = _whole_bytes(setup.engine.state())
    if telemetry is not None:
        directory.checkpoints.mkdir(exist_ok=True)
        preflight_space(directory.checkpoints, _CHECKPOINTS_AT_ONCE * _TENSORS_PER_WEIGHT * weights)
    parent = setup.point.checkpoint
    uploads = None if telemetry is None else telemetry.uploads
    return CheckpointWriter(
        directory.checkpoints,
        description=SelfDescription(
            recipe=to_toml(recipe.tables),
            recipe_hash=plan.identity.hash,
            tokenizer=directory.tokenizer,
            reference=None if setup.reference is None else directory.reference,
            world_size=team.place.world_size,
            frozen=setup.built.frozen,
        ),
        retention=_retention(recipe),
        on_saved=_teller(directory, telemetry),
        protected=uploads.protected if uploads else tuple,
        elsewhere=tuple if telemetry is None else telemetry.elsewhere,
        parent=None if parent is None else parent.step,
        crew=_crew(team, timeout=recipe.backend.timeout_seconds),
        agree=lambda number: max(team.gather(number)),
    )


def _teller(
    directory: RunDirectory, telemetry: Telemetry | None
) -> Callable[[SavedCheckpoint], None]:
    def saved(checkpoint: SavedCheckpoint) -> None:
        if telemetry is None:
            return
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

    return saved


def _crew(team: Team, *, timeout: float) -> Crew | None:
    if team.background is None:
        return None
    from llmforge.checkpoint.gloo_group import GlooCrew

    return GlooCrew(team.background, timeout=timeout)


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
