"""Everything the steps need, built and restored: data, engine, and where to continue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pluggy

from llmforge.checkpoint import CheckpointWriter
from llmforge.data.audit import audit_lines
from llmforge.data.example_rows import ExampleSplit
from llmforge.distributed import Team
from llmforge.events import Event, RunStarted
from llmforge.interfaces import Engine, RunContext
from llmforge.recipe import Recipe
from llmforge.run.micro_batches import Division
from llmforge.run.plan import Plan
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.samples import Sampling
from llmforge.run.setup.build import PreparedData
from llmforge.run.setup.cpu_formats import MATMUL_SPEED
from llmforge.run.setup.example_packing import packing_line
from llmforge.run.setup.kernel_choices import KERNELS, KernelChoices
from llmforge.run.setup.model_build import BuiltModel
from llmforge.run.setup.reference import Reference
from llmforge.run.setup.resume_point import StartingPoint
from llmforge.run.setup.run_record import tracker_tags
from llmforge.run.signals import StopSignals
from llmforge.run.trace_range import TraceRange
from llmforge.run.training.answers import ANSWERS, AnswerMetrics, measures
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
            "packed": self.prepared.packed,
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
            f"at most {self.evaluation_rows * self.prepared.longest_row:,} at once "
            "in evaluation",
            *self._warmups(),
            *([] if self.kernels is None else self.kernels.lines()),
        ]

    def _warmups(self) -> list[str]:
        train, said = self.run.train, []
        if steps := train.batch_warmup_steps:
            begin, end = train.batch_warmup_from, train.batch_size
            said.append(f"batches grow from {begin} to {end} in {steps} steps")
        if steps := train.context_warmup_steps:
            begin, end = train.context_warmup_from, self.run.context
            said.append(f"windows grow from {begin} to {end} tokens in {steps} steps")
        return [", ".join(said)] if said else []

    def _examples(self) -> list[str]:
        lines = [f"examples, {line}" for line in audit_lines(self.prepared.audits())]
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
