"""The step loop: accumulate, step, log, evaluate, checkpoint, stop.

Order at a boundary: evaluate, update best and stopping state, checkpoint, emit. Losses stay on
the device and are read at logging, evaluation and checkpoint steps only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch

from llmforge.checkpoint import CheckpointWriter, SaveRequest
from llmforge.data.batches import TrainBatches
from llmforge.data.example_batches import ExampleBatches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.distributed import Team
from llmforge.errors import TrainingError
from llmforge.events import HistogramsLogged
from llmforge.interfaces import Engine
from llmforge.ramp import Ramp
from llmforge.recipe import Recipe
from llmforge.recipe.schema import parse_interval
from llmforge.run.micro_batches import Division
from llmforge.run.outcome import Ending
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.seeds import TRAINING, derive
from llmforge.run.signals import StopNow, StopSignals
from llmforge.run.trainer_state import TrainerState
from llmforge.run.training.context_warmup import shorter_windows
from llmforge.run.training.early_stopping import EarlyStopping
from llmforge.run.training.evaluation import evaluate
from llmforge.run.training.loop_outputs import LoopOutputs, Rows, histograms
from llmforge.run.training.loss_average import LossTotals
from llmforge.run.training.memory_report import MemoryReports
from llmforge.run.training.step_trace import StepTracer
from llmforge.run.training.stop_vote import Stopping
from llmforge.run.training.throughput import Pace

log = logging.getLogger("llmforge.run")

_MEMORY = "docs/troubleshooting.md#memory"


class TaskMetrics(Protocol):
    """Measures more than the loss at an evaluation.

    Attributes:
        phase: what it does, for the terminal: ``answering``.
    """

    phase: str

    def measure(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return values by name, or None when ``stop``, asked now and then, said so."""
        ...


class TrainingLoop:
    """Takes the steps of a run.

    Args:
        recipe: what to do.
        engine: model and optimizer, prepared and restored.
        batches: training data by global position.
        validation: the split evaluations run over, or None.
        state: where to continue; changed in place.
        last_step: where the run ends.
        division: how a batch is computed.
        evaluation_rows: windows that are evaluated at once.
        writer: saves checkpoints, or None when they are off.
        signals: asked after every step.
        team: the ranks that take the same steps. What only one can know, such as a signal or why
            to stop, all learn at the same step.
        reporter: shows progress.
        outputs: takes results.
        metrics: measures answers or labels too, where the recipe asks for it.
        peak_flops: of the device, for MFU; None when unknown.
        set_step: told every step; must cost nothing.
        tracer: watches the steps it is asked to.
        memory: writes down what is in memory when that does not suffice.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        engine: Engine,
        batches: TrainBatches | ExampleBatches,
        validation: TokenSplit | ExampleSplit | None,
        state: TrainerState,
        last_step: int,
        division: Division,
        evaluation_rows: int,
        writer: CheckpointWriter | None,
        signals: StopSignals,
        team: Team,
        reporter: Reporter,
        outputs: LoopOutputs,
        metrics: TaskMetrics | None,
        peak_flops: float | None,
        set_step: Callable[[int], None],
        tracer: StepTracer,
        memory: MemoryReports,
    ) -> None:
        self._recipe = recipe
        self._engine = engine
        self._batches = batches
        self._validation = validation
        self._state = state
        self._early_stopping = EarlyStopping(recipe, state)
        self._division = division
        self._evaluation_rows = evaluation_rows
        self._writer = writer
        self._signals = signals
        self._team = team
        self._stopping = Stopping(team, signals=signals, failure=outputs.failure)
        self._reporter = reporter
        self._outputs = outputs
        self._metrics = metrics
        self._set_step = set_step
        self._tracer = tracer
        self._memory = memory
        train = recipe.train
        self._batch_sizes = batches.epochs.batch_size
        self._lengths = Ramp(
            recipe.context, begin=train.context_warmup_from, steps=train.context_warmup_steps
        )
        self._last_step = last_step
        self._stop_at = min(recipe.train.stop_at or self._last_step, self._last_step)
        self._ends_epoch = batches.epochs.ends
        self._evaluation_due, self._save_due, self._histograms_due = (
            batches.epochs.due(parse_interval(interval))
            for interval in (
                recipe.eval.every,
                recipe.checkpoint.every,
                train.histograms_every,
            )
        )
        self._metrics_due = batches.epochs.due(parse_interval(recipe.metric.every or 1))
        self._first_step = self._last_saved = state.step
        self._totals = LossTotals(state, device=engine.device, team=team, window=train.log_every)
        self._pace = Pace(
            state.step,
            window=train.log_every,
            stop_at=self._stop_at,
            tokens=lambda step: batches.tokens(self._batch_sizes.before(step)),
            peak_tokens_per_second=peak_flops
            and peak_flops * division.ranks / engine.model.flops_per_token(),
        )
        self._pace.lap = tracer.watched(self._pace.lap)
        self._rows = Rows(
            recipe,
            state=state,
            batches=batches,
            totals=self._totals,
            pace=self._pace,
            outputs=outputs,
            reporter=reporter,
            stop_at=self._stop_at,
        )

    def run(self) -> Ending:
        """Step until the end, early stopping or a signal; the last step is always saved.

        Raises:
            TrainingError: the loss is no longer finite, or not even one sequence fits.
            CheckpointError: a checkpoint could not be written.
        """
        with self._signals.deferred(), self._tracer:
            self._finish_boundary()
            while True:
                ending = self._stopped() if self._stopping.before_step() else self._ending()
                if ending is not None:
                    self._save_unless_saved()
                    self._stopping.close()
                    return ending
                with self._tracer.step(self._state.step):
                    self._take_step()
                    if self._is_boundary():
                        self._boundary()

    # Steps ---------------------------------------------------------------------------------

    def _take_step(self) -> None:
        state = self._state
        while not self._accumulate():
            self._take_smaller_micro_batch()
        wants_histograms = self._histograms_due(state.step + 1)
        gradients = self._gradient_histograms() if wants_histograms else {}
        result = self._engine.step(state.step)
        self._pace.lap("compute")
        self._totals.add(result, targets=self._step_targets())
        state.learning_rate = result.learning_rate
        state.step += 1
        state.sequences = self._batch_sizes.before(state.step)
        state.row = None
        self._set_step(state.step)
        if wants_histograms:
            self._tell_histograms(gradients)
        if self._writer is not None and state.step == self._first_step + 1:
            # Only now does the optimizer have its state: touch the snapshot's memory once, here,
            # so that the first checkpoint blocks no longer than the others.
            tensors = self._engine.state()
            self._writer.prepare(tensors.model, tensors.optimizer, tensors.slices)
            self._pace.lap("checkpoint")

    def _accumulate(self) -> bool:
        """Add up the gradients of this rank's share of a global batch.

        Returns:
            False when a micro-batch did not fit.
        """
        state = self._state
        division = self._division.of(self._batch_sizes.at(state.step))
        micro, mine = division.micro, list(division.micro_batches())
        targets = max(1, self._step_targets())
        for index, start in mine:
            batch = self._batches.batch(state.sequences + start, micro)
            batch = shorter_windows(batch, self._lengths, state.step)
            self._pace.lap("data")
            seed = derive(self._recipe.run.seed, TRAINING, state.step, index)
            try:
                self._engine.accumulate(
                    batch, targets=targets, seed=seed, last=index == mine[-1][0]
                )
            except (torch.OutOfMemoryError, MemoryError) as error:
                self._memory.write(error, step=state.step + 1, micro_batch=micro)
                self._require_alone(error)
                self._engine.discard()
                return False
            self._pace.lap("compute")
        return True

    def _step_targets(self) -> int:
        """Return how many tokens of the step's global batch are learned, over all ranks."""
        return self._batches.targets(self._state.sequences, self._batch_sizes.at(self._state.step))

    def _require_alone(self, error: Exception) -> None:
        """Refuse to try again where others wait for this rank, who cannot be asked to in time."""
        if self._division.ranks > 1:
            smaller = self._division.smaller()
            raise TrainingError(
                f"out of memory with {self._division.micro} sequences at a time"
                f"{self._memory.where}",
                remedy=f"set train.micro_batch_size to {smaller.micro} or less; see {_MEMORY}"
                if smaller
                else f"a smaller model or context, or bf16; see {_MEMORY}",
            ) from error

    def _take_smaller_micro_batch(self) -> None:
        smaller = self._division.smaller()
        if smaller is None:
            raise TrainingError(
                f"out of memory with one sequence at a time{self._memory.where}",
                remedy=f"a smaller model or context, or bf16; see {_MEMORY}",
            )
        self._division = smaller
        self._outputs.micro_batch(smaller.micro)
        self._reporter.notice(
            f"out of memory at step {self._state.step}: micro-batch is now {smaller.micro}, the "
            f"global batch stays {smaller.batch}; the same batch is computed again"
            f"{self._memory.where}"
        )

    def _gradient_histograms(self) -> dict[str, Any]:
        """Return histograms of what the step is about to use; it clears the gradients."""
        self._await_device()
        found = histograms(self._engine.gradients(), group="gradients")
        self._pace.lap("histograms")
        return found

    def _tell_histograms(self, gradients: dict[str, Any]) -> None:
        self._await_device()
        weights = histograms(self._engine.state().model, group="weights")
        self._outputs.event(HistogramsLogged(step=self._state.step, values=weights | gradients))
        self._pace.lap("histograms")

    def _await_device(self) -> None:
        """Count what the device is still at as computing, and not as part of what comes next."""
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)
        self._pace.lap("compute")

    # Boundaries ----------------------------------------------------------------------------

    def _is_boundary(self) -> bool:
        step = self._state.step
        return (
            step % self._recipe.train.log_every == 0
            or step == self._last_step
            or self._ends_epoch(step)
            or self._evaluation_due(step)
            or self._save_due(step)
            or self._outputs.samples_due(step)
        )

    def _finish_boundary(self) -> None:
        """Do or tell again what an earlier start may have left undone at this very step."""
        state = self._state
        if not state.boundary_done:
            self._boundary()
        elif state.row is not None:
            self._rows.tell_again(state.row)
            self._sample_if_due()

    def _boundary(self) -> None:
        state = self._state
        state.boundary_done = False
        self._require_finite()
        ends_epoch = self._ends_epoch(state.step)
        row = self._rows.training(ends_epoch=ends_epoch)
        values: dict[str, float] = {}
        is_best = False
        if self._validation is not None and (
            state.step == self._last_step or self._evaluation_due(state.step)
        ):
            measured = self._evaluate(self._validation)
            if measured is None:
                return  # a signal: the boundary is done again when the run resumes
            values = measured
            row |= values
            is_best = self._early_stopping.judge(values)
        if ends_epoch:
            self._totals.begin_epoch()
        state.row = row
        state.boundary_done = True
        self._decide()
        # A run that has ended makes all its samples at once.
        state.samples_due = not state.finished and self._outputs.samples_due(state.step)
        if is_best or self._save_due(state.step) or state.finished:
            self._save(is_best=is_best, required=bool(state.finished))
        self._rows.emit(row, values, is_best=is_best)
        self._sample_if_due()

    def _sample_if_due(self) -> None:
        if not self._state.samples_due:
            return
        try:
            self._outputs.samples(self._state.step)
        except StopNow:
            return  # the loop sees the request and saves; they are made when the run resumes
        self._state.samples_due = False
        self._pace.lap("samples")

    def _evaluate(self, split: TokenSplit | ExampleSplit) -> dict[str, float] | None:
        self._reporter.phase(f"evaluating at step {self._state.step}")
        values = evaluate(
            self._engine.evaluate,
            split,
            name="val",
            context=self._recipe.context,
            batch_size=self._evaluation_rows,
            stop=self._stopping.before_batch,
            team=self._team,
            fewer=self._evaluate_fewer,
        )
        if values is not None and self._metrics is not None and self._metrics_wanted():
            self._reporter.phase(f"{self._metrics.phase} at step {self._state.step}")
            measured = self._metrics.measure(self._stopping.before_batch)
            values = None if measured is None else values | measured
        self._pace.lap("evaluation")
        return values

    def _metrics_wanted(self) -> bool:
        step = self._state.step
        return step == self._last_step or self._metrics_due(step)

    def _evaluate_fewer(self, rows: int) -> None:
        self._evaluation_rows = rows
        self._outputs.evaluation_rows(rows)
        self._reporter.notice(
            f"out of memory evaluating at step {self._state.step}: {rows} sequences at once now"
        )

    def _decide(self) -> None:
        """Note in the state when this was the last step."""
        state = self._state
        reason = self._team.broadcast(self._outputs.stop_reason(state.step))
        reason = self._early_stopping.reason() or reason
        if reason is not None:
            state.finished = {"state": "early-stopped", "reason": reason}
        elif state.step >= self._last_step:
            state.finished = {"state": "completed", "reason": f"all {state.step} steps taken"}

    def _ending(self) -> Ending | None:
        state = self._state
        if state.finished is not None:
            return Ending(state=state.finished["state"], reason=state.finished["reason"])
        if state.step >= self._stop_at:
            return Ending(state="interrupted", reason=f"stop_at = {self._stop_at} steps reached")
        return None

    def _stopped(self) -> Ending:
        if self._stopping.failed:
            error = self._stopping.failure
            reason = "another rank ended the run" if error is None else error.message
            return Ending(state="failed", reason=reason, error=error)
        return Ending(state="interrupted", reason=f"stopped by {self._signals.requested}")

    # Checkpoints ---------------------------------------------------------------------------

    def _require_finite(self) -> None:
        if not self._engine.finite():
            raise TrainingError(
                f"the loss or gradient was not finite at or before step {self._state.step}",
                remedy="nothing after the last good checkpoint was kept; try a lower learning "
                "rate, more warm-up or fp32; see docs/troubleshooting.md#nan",
            )

    def _save_unless_saved(self) -> None:
        if self._writer is not None and self._last_saved != self._state.step:
            self._require_finite()
            self._save(is_best=False, required=True)

    def _save(self, *, is_best: bool, required: bool) -> None:
        if self._writer is None:
            return
        state = self._state
        self._totals.store()
        state.components = self._outputs.component_state()
        tensors = self._engine.state()
        saved = self._writer.submit(
            SaveRequest(
                step=state.step,
                model=tensors.model,
                optimizer=tensors.optimizer,
                slices=tensors.slices,
                trainer=state.to_json(tensors.values),
                metadata=self._outputs.metadata(state),
                is_best=is_best,
                required=required,
            )
        )
        if saved:
            self._last_saved = state.step
            if self._outputs.secure is not None:
                self._writer.flush()
                self._outputs.secure(state.step)
                self._team.broadcast(None, patient=True)  # storage may keep the leader for long
        self._pace.lap("checkpoint")
