"""Where a start of a run begins: the newest sound checkpoint, one the user names, or step 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmforge.checkpoint import (
    Checkpoint,
    StoredTensors,
    load_tensors,
    newest_valid,
    open_checkpoint,
    read_trainer,
    rewind,
    verify,
)
from llmforge.checkpoint.frozen_weights import hash_stored, require_same_weights
from llmforge.errors import CheckpointError
from llmforge.interfaces import Engine, EngineState
from llmforge.run.plan import Plan
from llmforge.run.setup.model_build import BuiltModel
from llmforge.run.setup.resume_from_storage import go_back
from llmforge.run.trainer_state import TrainerState
from llmforge.rundir import withdraw_completion


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """The state to resume from; ``checkpoint`` is None at the very beginning."""

    state: TrainerState
    engine_values: dict[str, Any]
    checkpoint: Checkpoint | None
    warnings: tuple[str, ...] = ()


def starting_point(plan: Plan, *, resume: Path | None) -> StartingPoint:
    """Find the checkpoint to resume from.

    Args:
        plan: the run.
        resume: a checkpoint directory the user chose, or None for the newest sound one. Newer
            ones of the run are set aside.

    Raises:
        CheckpointError: none is sound, or the chosen one is damaged or of a different recipe.
        StorageError: storage could not be notified that the run goes back.
    """
    if resume is not None:
        chosen = _chosen(plan, resume)
        # Before anything is set aside: a rewound run is not done, even if it is killed now.
        withdraw_completion(plan.root, plan.run_id)
        if plan.recipe.storage.url is not None:
            go_back(plan, step=chosen.step)
        rewind(plan.directory.checkpoints, chosen.step)
        return _from(chosen, ())
    restored = newest_valid(plan.directory.checkpoints)
    if restored is None:
        return StartingPoint(state=TrainerState(), engine_values={}, checkpoint=None)
    return _from(restored.checkpoint, restored.warnings)


def load_into(engine: Engine, point: StartingPoint, *, built: BuiltModel) -> None:
    """Put the checkpoint's weights and optimizer state into ``engine``.

    Raises:
        CheckpointError: a tensor does not fit the model, or the checkpoint belongs to other frozen
            weights than the model was built with.
    """
    if point.checkpoint is None:
        return
    path = point.checkpoint.path  # verified where it was chosen
    require_same_weights(
        point.checkpoint.manifest.frozen, built.frozen, owner=f"checkpoint {path.name}"
    )
    engine.load_state(
        EngineState(
            model=_what_trains(load_tensors(path, "model", verified=True), path, built),
            optimizer=load_tensors(path, "optimizer", verified=True),
            values=point.engine_values,
        )
    )


def _what_trains(weights: StoredTensors, path: Path, built: BuiltModel) -> StoredTensors:
    """Return ``weights`` without frozen ones, which checkpoints once had too."""
    own = built.frozen_names
    if built.frozen is None or not own <= weights.keys():
        return weights
    saved = replace(built.frozen, sha256=hash_stored(weights, own), source=f"those in {path}")
    require_same_weights(saved, built.frozen, owner=f"checkpoint {path.name}")
    return weights.without(own)


def _chosen(plan: Plan, path: Path) -> Checkpoint:
    wrong = verify(path)
    if wrong:
        raise CheckpointError(f"{path} is damaged: {'; '.join(wrong)}")
    checkpoint = open_checkpoint(path)
    if checkpoint.manifest.recipe_hash != plan.identity.hash:
        raise CheckpointError(
            f"{path} was written with a different recipe from the one given",
            remedy=f"compare them: {path}/recipe.toml",
        )
    return checkpoint


def _from(checkpoint: Checkpoint, warnings: tuple[str, ...]) -> StartingPoint:
    body = read_trainer(checkpoint.path)
    state = TrainerState.from_json(body)
    return StartingPoint(
        state=state,
        engine_values=dict(body.get("engine", {})),
        checkpoint=checkpoint,
        warnings=warnings,
    )
