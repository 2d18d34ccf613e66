"""Setting up a start of a run: prepare data and engine, and restore the newest checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from llmforge.checkpoint import FrozenWeights
from llmforge.checkpoint.format import read_metadata
from llmforge.checkpoint.frozen_weights import require_same_weights
from llmforge.data.audit import audit_warnings
from llmforge.data.labels import save_labels
from llmforge.data.prompts import save_template
from llmforge.distributed import Team, leader_first
from llmforge.errors import DataError
from llmforge.interfaces import Engine, RunContext
from llmforge.run.micro_batches import Division, divide_batch
from llmforge.run.plan import Components, Plan
from llmforge.run.setup.build import (
    PreparedData,
    check_fingerprints,
    prepare_data,
    prepare_engine,
    run_length,
    with_steps,
)
from llmforge.run.setup.cpu_formats import slow_bf16, with_matmul_speed
from llmforge.run.setup.kernel_choices import choose_kernels
from llmforge.run.setup.model_build import BuiltModel, agreed
from llmforge.run.setup.reference import with_reference
from llmforge.run.setup.resume_point import StartingPoint, load_into, starting_point
from llmforge.run.setup.start_event import run_facts
from llmforge.run.setup.training_setup import FROZEN, REFERENCE, TrainingSetup
from llmforge.run.training.evaluation import rows_at_once
from llmforge.rundir import RunRecord


def set_up(
    plan: Plan,
    components: Components,
    record: RunRecord,
    *,
    team: Team,
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
    resume: Path | None,
    allow_data_change: bool,
) -> TrainingSetup:
    """Prepare data and engine, and restore the newest sound checkpoint.

    :func:`~llmforge.run.setup.preflight.require_ready` comes first.

    Args:
        plan: the run.
        components: its components.
        record: of the run; what ``auto`` became and the fingerprints are held to.
        team: all ranks do this together; the leader prepares the data and chooses the checkpoint.
        notice: tells the user what is worth knowing.
        check_stop: raises when a signal has arrived.
        resume: a checkpoint to go back to instead of the newest.
        allow_data_change: continue although the fingerprints differ.

    Raises:
        ForgeError: data, a component or every checkpoint is not fit for use.
        StopNow: a signal arrived.
    """
    run = plan.context(resolved=record.resolved, notice=notice, place=team.place)
    prepared = leader_first(
        team,
        lambda: prepare_data(components.manager, run, plan.directory, check_stop=check_stop),
    )
    check_fingerprints(record.fingerprints, prepared.fingerprints, allow_change=allow_data_change)
    _check_same_data(team, prepared)
    if team.place.is_leader:
        save_labels(plan.directory.tokenizer, prepared.labels)
        if prepared.template is not None:
            save_template(plan.directory.tokenizer, prepared.template)
        for little in audit_warnings(prepared.audits()):
            notice(little)
    planned, last_step = run_length(plan.recipe, prepared.batches.epochs)
    run = with_steps(run, total_steps=planned)
    run = dataclasses.replace(run, labels=prepared.labels)
    point = _shared_point(team, plan, resume=resume)
    if plan.recipe.train.extend_to is not None:
        point.state.reopen(until=last_step)
    run = with_matmul_speed(run, team=team)
    filled = _filled_by(point, run)
    engine, built = prepare_engine(components.manager, filled, prepared)
    if filled.filled and built.frozen_names:
        # an old checkpoint, which has the frozen weights too and does not say which they are
        engine, built = prepare_engine(components.manager, run, prepared)
    built = agreed(built, team)
    _require_same_base(record, built)
    if team.place.is_leader and (warning := slow_bf16(run, engine.resolution)):
        notice(warning)
    division = divide_batch(
        plan.recipe,
        record.resolved,
        device=engine.device.type,
        ranks=team.place.world_size,
        rank=team.place.rank,
        longest=prepared.longest_row,
        packed=prepared.packed,
    )
    kernels = None
    if engine.device.type == "cpu":
        kernels = choose_kernels(
            engine.model,
            record.resolved,
            cache=run.cache,
            rows=division.micro,
            length=prepared.longest_row,
            bf16=engine.resolution.precision == "bf16",
            team=team,
            notice=notice,
        )
    # before the weights of a checkpoint are loaded: it is of those that the run starts from
    prepared, reference = with_reference(
        prepared,
        engine,
        run,
        directory=plan.directory,
        checkpoint=None if point.checkpoint is None else point.checkpoint.path,
        expected=None if allow_data_change else record.fingerprints.get(REFERENCE),
        rows=division.micro,
        team=team,
        check_stop=check_stop,
    )
    load_into(engine, point, built=built)
    components.restore(point.state.components)
    return TrainingSetup(
        run=run,
        prepared=prepared,
        engine=engine,
        built=built,
        point=point,
        last_step=last_step,
        division=division,
        kernels=kernels,
        evaluation_rows=_evaluation_rows(
            team,
            plan,
            record,
            engine=engine,
            division=division,
            longest=prepared.longest_row,
        ),
        reference=reference,
        trace=plan.trace,
        facts=run_facts(
            plan.recipe,
            model=engine.model,
            built=built,
            prepared=prepared,
            resolution=engine.resolution,
            last_step=last_step,
        ),
    )


def _filled_by(point: StartingPoint, run: RunContext) -> RunContext:
    """Return ``run`` as its model is built: without reading weights that a checkpoint replaces."""
    if point.checkpoint is None or point.checkpoint.manifest.frozen is not None:
        return run
    model = read_metadata(point.checkpoint.path).get("model") or run.resolved.get("model", {})
    return dataclasses.replace(run, filled=True, resolved={**run.resolved, "model": model})


def _require_same_base(record: RunRecord, built: BuiltModel) -> None:
    """Refuse to resume over other frozen weights than the run was started with."""
    kept = record.fingerprints.get(FROZEN)
    if kept is not None:
        parameters = built.parameters - built.trainable
        expected = FrozenWeights(
            sha256=kept, parameters=parameters, source="those of its first start"
        )
        require_same_weights(expected, built.frozen, owner=f"run {record.run_id}")


def _shared_point(team: Team, plan: Plan, *, resume: Path | None) -> StartingPoint:
    """Return where to continue; the leader chooses, which may take long, and tells the others."""
    chosen = starting_point(plan, resume=resume) if team.place.is_leader else None
    point = team.broadcast(chosen, patient=True)
    assert point is not None
    return point


def _evaluation_rows(
    team: Team,
    plan: Plan,
    record: RunRecord,
    *,
    engine: Engine,
    division: Division,
    longest: int,
) -> int:
    """Return how many windows are evaluated at once, the same on all ranks and after a resume."""
    kept = plan.recipe.eval.batch_size or record.resolved.get("eval_batch_size")
    if kept is not None:
        return int(kept)
    fitting = rows_at_once(
        engine.model,
        context=longest,
        device=engine.device,
        least=division.micro,
        sharing=team.place.local_world_size,
    )
    return min(team.gather(fitting))


def _check_same_data(team: Team, prepared: PreparedData) -> None:
    found = team.gather(prepared.fingerprints)
    wrong = [str(rank) for rank, one in enumerate(found) if one != found[0]]
    if wrong:
        raise DataError(
            f"data or tokenizer of rank {', '.join(wrong)} are not those of rank 0",
            remedy="give every machine the same data; run.root must be a directory they share",
        )
