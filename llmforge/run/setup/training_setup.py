"""Everything the steps need, built and restored: data, engine, and where to continue."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pluggy

from llmforge.checkpoint import CheckpointWriter, FrozenWeights
from llmforge.checkpoint.format import read_metadata
from llmforge.checkpoint.frozen_weights import require_same_weights
from llmforge.data.audit import SplitAudit, audit, audit_lines, audit_warnings
from llmforge.data.example_batches import ExampleBatches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.labels import save_labels
from llmforge.data.prompts import save_template
from llmforge.distributed import Team, leader_first
from llmforge.errors import DataError
from llmforge.events import Event, RunStarted
from llmforge.interfaces import Engine, RunContext
from llmforge.recipe import Recipe
from llmforge.run.micro_batches import Division, divide_batch
from llmforge.run.plan import Components, Plan
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.samples import Sampling
from llmforge.run.setup.build import (
    PreparedData,
    check_fingerprints,
    prepare_data,
    prepare_engine,
    run_length,
    with_steps,
)
from llmforge.run.setup.cpu_formats import MATMUL_SPEED, slow_bf16, with_matmul_speed
from llmforge.run.setup.example_packing import packing_line
from llmforge.run.setup.kernel_choices import KERNELS, KernelChoices, choose_kernels
from llmforge.run.setup.model_build import BuiltModel, agreed
from llmforge.run.setup.reference import Reference, with_reference
from llmforge.run.setup.resume_point import StartingPoint, load_into, starting_point
from llmforge.run.setup.run_record import tracker_tags
from llmforge.run.setup.start_event import run_facts
from llmforge.run.signals import StopSignals
from llmforge.run.trace_range import TraceRange
from llmforge.run.training.answers import ANSWERS, AnswerMetrics, measures
from llmforge.run.training.evaluation import rows_at_once
from llmforge.run.training.label_metrics import LABELS, LabelMetrics
from llmforge.run.training.loop import TaskMetrics, TrainingLoop
from llmforge.run.training.loop_outputs import LoopOutputs
from llmforge.run.training.memory_report import MemoryReports
from llmforge.run.training.step_trace import open_tracer
from llmforge.run.training.throughput import peak_flops
from llmforge.rundir import RunDirectory, RunRecord

REFERENCE = "reference"
"""Where the record's ``fingerprints`` have the hash of what the objective compares with."""

FROZEN = "frozen_weights"
"""Where the record's ``fingerprints`` have the hash of what does not train."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What a start of a run works with.

    Attributes:
        run: the run as components see it, its length known.
        prepared: tokens and batches.
        engine: model and optimizer, restored.
        built: what of the model trains.
        point: the state to resume from.
        last_step: where the run ends, extended or not.
        division: how the batch is computed.
        evaluation_rows: sequences that are evaluated at once.
        kernels: how parts of the model are computed, where there is a choice.
        facts: sizes of model, data, steps and machine, for the log and trackers.
        reference: what the objective compares with; None where it needs nothing.
        trace: the steps to trace, if any.
    """

    run: RunContext
    prepared: PreparedData
    engine: Engine
    built: BuiltModel
    point: StartingPoint
    last_step: int
    division: Division
    evaluation_rows: int
    kernels: KernelChoices | None
    facts: dict[str, Any]
    reference: Reference | None = None
    trace: TraceRange | None = None

    def sampling(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        directory: RunDirectory | None,
        emit: Callable[[Event], None],
        signals: StopSignals,
    ) -> Sampling:
        """Return what generates the recipe's samples with the model as it is at a step."""
        return Sampling(
            recipe,
            manager=manager,
            run=self.run,
            engine=self.engine,
            tokenizer=self.prepared.tokenizer,
            template=self.prepared.prompts,
            epochs=self.prepared.batches.epochs,
            directory=directory,
            emit=emit,
            signals=signals,
        )

    def loop(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        writer: CheckpointWriter | None,
        signals: StopSignals,
        team: Team,
        reporter: Reporter,
        outputs: LoopOutputs,
        set_step: Callable[[int], None],
    ) -> TrainingLoop:
        """Return the step loop over what was set up, from where the run stands."""
        resolution = self.engine.resolution
        return TrainingLoop(
            recipe,
            engine=self.engine,
            batches=self.prepared.batches,
            validation=self.prepared.splits.get("validation"),
            state=self.point.state,
            last_step=self.last_step,
            division=self.division,
            evaluation_rows=self.evaluation_rows,
            writer=writer,
            signals=signals,
            team=team,
            reporter=reporter,
            outputs=outputs,
            metrics=self._metrics(recipe, manager=manager, signals=signals, team=team),
            peak_flops=peak_flops(resolution.hardware, resolution.precision),
            set_step=set_step,
            tracer=open_tracer(
                self.trace,
                self.run,
                device=self.engine.device,
                taken=self.point.state.step,
                last_step=self.last_step,
                reporter=reporter,
            ),
            memory=MemoryReports(self.run, self.engine),
        )

    def _metrics(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        signals: StopSignals,
        team: Team,
    ) -> TaskMetrics | None:
        split = self.prepared.splits.get("validation")
        if not isinstance(split, ExampleSplit):
            return None
        if measures(LABELS, recipe):
            return LabelMetrics(
                recipe,
                manager=manager,
                run=self.run,
                engine=self.engine,
                split=split,
                rows=self.evaluation_rows,
                team=team,
            )
        if not measures(ANSWERS, recipe):
            return None
        return AnswerMetrics(
            recipe,
            manager=manager,
            run=self.run,
            engine=self.engine,
            tokenizer=self.prepared.tokenizer,
            split=split,
            signals=signals,
            team=team,
        )

    def fingerprints(self) -> dict[str, str]:
        """Return what a resume must find again: of the data, and of what does not train."""
        found = dict(self.prepared.fingerprints)
        if self.built.frozen is not None:
            found[FROZEN] = self.built.frozen.sha256
        if self.reference is not None:
            found[REFERENCE] = self.reference.sha256
        return found

    def resolved(self) -> dict[str, Any]:
        """Return what ``auto`` became, for the run's record."""
        found = self.engine.resolution
        speed = self.run.matmul_speed
        return {
            "device": found.device,
            "precision": found.precision,
            "compile": found.compile,
            "hardware": found.hardware,
            "reasons": list(found.reasons),
            **({} if speed is None else {MATMUL_SPEED: asdict(speed)}),
            "world_size": self.division.ranks,
            "micro_batch_size": self.division.micro,
            "eval_batch_size": self.evaluation_rows,
            "packed": _is_packed(self.prepared),
            **({} if self.kernels is None else {KERNELS: asdict(self.kernels)}),
            "data": getattr(self.prepared.data, "resolution", {}),
            "model": dict(getattr(self.engine.model, "resolution", {})),
        }

    def model_source(self) -> dict[str, Any]:
        """Return where a model came from that was not made here, and its architecture."""
        source = dict(getattr(self.engine.model, "resolution", {}))
        return {**source, "architecture": self.facts["architecture"]} if source else {}

    def describe(self, plan: Plan, record: RunRecord) -> list[str]:
        """Return the lines that say what is about to be trained, on what, and why so."""
        found, division = self.engine.resolution, self.division
        tokens = ", ".join(f"{name} {count:,}" for name, count in self.facts["tokens"].items())
        if self.point.checkpoint is not None:
            begin = f"resuming from step {self.point.state.step}"
        elif record.restarts > 1:
            begin = "starting at step 0: no checkpoint was written yet"
        else:
            begin = "new run"
        return [
            f"run {plan.run_id}: {begin}",
            f"{found.hardware}, {found.precision}, {'compiled' if found.compile else 'eager'}: "
            + "; ".join(found.reasons),
            f"data: {self.facts['data']}; tokens: {tokens}",
            *self._examples(),
            f"model: {self.facts['parameters']:,} parameters, "
            f"vocabulary {self.facts['vocab_size']:,}",
            *self.built.lines(),
            f"{division}; {self.prepared.batches.tokens_per_step:,} tokens a step, "
            f"at most {self.evaluation_rows * _longest_row(plan.recipe, self.prepared):,} at once "
            "in evaluation",
            *([] if self.kernels is None else self.kernels.lines()),
        ]

    def _examples(self) -> list[str]:
        lines = [f"examples, {line}" for line in audit_lines(_audited(self.prepared))]
        if packing := packing_line(self.prepared, self.run, micro=self.division.micro):
            lines.append(packing)
        return lines

    def started(self, plan: Plan, record: RunRecord) -> RunStarted:
        """Return the event that tells trackers and callbacks all about this start."""
        sweep = {} if plan.trial is None else {"sweep": plan.trial.sweep_id}
        return RunStarted(
            run_id=plan.run_id,
            attempt=record.attempt,
            restart=record.restarts,
            directory=str(plan.directory.path.absolute()),
            config=plan.recipe.tables,
            facts={
                **self.facts,
                "name": record.name,
                "tags": tracker_tags(plan.recipe, run_id=plan.run_id),
                "resolved": record.resolved,
                "provenance": record.provenance,
                **sweep,
            },
            resumed_from=None if self.point.checkpoint is None else self.point.state.step,
        )


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
        for little in audit_warnings(_audited(prepared)):
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
        longest=_longest_row(plan.recipe, prepared),
        packed=_is_packed(prepared),
    )
    kernels = None
    if engine.device.type == "cpu":
        kernels = choose_kernels(
            engine.model,
            record.resolved,
            cache=run.cache,
            rows=division.micro,
            length=_longest_row(plan.recipe, prepared),
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
            longest=_longest_row(plan.recipe, prepared),
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


def _audited(prepared: PreparedData) -> dict[str, SplitAudit]:
    splits = {
        name: found for name, found in prepared.splits.items() if isinstance(found, ExampleSplit)
    }
    return audit(splits, prepared.tokenizer)


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


def _is_packed(prepared: PreparedData) -> bool:
    return isinstance(prepared.batches, ExampleBatches) and prepared.batches.packed


def _longest_row(recipe: Recipe, prepared: PreparedData) -> int:
    """Return how many tokens a row has at most: of several sequences each has the context."""
    return recipe.context * prepared.objective.sequences
