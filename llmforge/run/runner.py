"""One start of a run, from the plan to its end.

Preparing, restoring, stepping, finishing: each phase can be killed at any instant, and the next
start finds what was complete and does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SavedCheckpoint,
    SelfDescription,
    preflight_space,
)
from llmforge.errors import ForgeError, Interrupted, RecipeError, RunError
from llmforge.events import (
    ArtifactWritten,
    CheckpointSaved,
    RunEnded,
    RunStarted,
)
from llmforge.interfaces import Engine, RunContext
from llmforge.plugins import build_manager, collect, entries
from llmforge.recipe import to_toml
from llmforge.run.hardware import peak_flops
from llmforge.run.loop import Ending, Sinks, TrainingLoop
from llmforge.run.metadata import Describer
from llmforge.run.parts import (
    PreparedData,
    check_fingerprints,
    first_micro_batch,
    model_facts,
    planned_steps,
    prepare_data,
    prepare_engine,
    with_steps,
)
from llmforge.run.plan import Plan, check_identity, preflight_problems
from llmforge.run.provenance import provenance
from llmforge.run.report import Reporter, duration
from llmforge.run.restore import StartingPoint, load_into, starting_point
from llmforge.run.samples import Sampling
from llmforge.run.signals import StopNow, StopSignals
from llmforge.run.state import TrainerState
from llmforge.run.telemetry import Telemetry, log_to
from llmforge.rundir import (
    Completion,
    Recorder,
    RunDirectory,
    RunLock,
    RunRecord,
    next_attempt,
    read_record,
    write_completion,
)
from llmforge.rundir.atomic import DISK_FULL, write_json, write_text

log = logging.getLogger("llmforge.run")

Finisher = Callable[[RunDirectory], Sequence[Path]]
"""Makes further artifacts of a run that has ended (its curves); returns the files."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a start of a run came to.

    Attributes:
        directory: the run.
        state: ``completed``, ``early-stopped`` or ``interrupted`` (``stop_at`` reached).
        reason: why it ended, in words.
        metrics: content of ``metrics.json``.
        samples: generated texts with their prompts.
        engine: the trained model and optimizer, still in memory.
    """

    directory: RunDirectory
    state: str
    reason: str
    metrics: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    engine: Engine


def start_run(
    plan: Plan,
    *,
    signals: StopSignals,
    reporter: Reporter,
    resume: Path | None = None,
    allow_data_change: bool = False,
    finishers: Sequence[Finisher] = (),
) -> RunOutcome:
    """Train ``plan`` from where it stands until it ends.

    Args:
        plan: the run.
        signals: entered already, so that a signal is handled from the start of the process.
        reporter: shows what happens.
        resume: a checkpoint of this run to go back to.
        allow_data_change: go on although data or tokenizer changed.
        finishers: make artifacts at the end.

    Raises:
        RunLockedError: another process trains this run.
        RecipeError: something a component needs is missing.
        Interrupted: a signal stopped it; what was trained is saved.
        ForgeError: anything else that a user can mend.
    """
    with _full_disk_told(plan), RunLock(plan.root, plan.run_id):
        directory = plan.directory
        record = _open_record(plan)
        directory.path.mkdir(parents=True, exist_ok=True)
        write_text(directory.recipe, to_toml(plan.recipe.tables))
        recorder = Recorder(directory, record)
        start = _Start(plan, recorder, signals=signals, reporter=reporter, finishers=finishers)
        level = plan.recipe.run.log_level
        with log_to(directory.path / plan.recipe.run.log_file, level), reporter:
            return start.run(resume=resume, allow_data_change=allow_data_change)


class _Start:
    """The phases of one start, and what they share."""

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        *,
        signals: StopSignals,
        reporter: Reporter,
        finishers: Sequence[Finisher],
    ) -> None:
        self._plan = plan
        self._recipe = plan.recipe
        self._directory = plan.directory
        self._recorder = recorder
        self._signals = signals
        self._reporter = reporter
        self._finishers = finishers
        self._began = time.time()
        self._first_step = 0
        self._components = plan.components()
        self._manager = build_manager(
            component for selected in self._components.values() for component in selected
        )

    def run(self, *, resume: Path | None, allow_data_change: bool) -> RunOutcome:
        telemetry: Telemetry | None = None
        interrupted = False
        try:
            self._recorder.start()
            telemetry = Telemetry(
                self._directory, self._recipe, manager=self._manager, recorder=self._recorder
            )
            return self._phases(telemetry, resume=resume, allow_data_change=allow_data_change)
        except (StopNow, Interrupted) as error:
            interrupted = True
            reason = error.message if isinstance(error, Interrupted) else f"stopped by {error}"
            self._end_early(telemetry, state="interrupted", reason=reason)
            raise Interrupted(reason, remedy="the same command goes on from here") from None
        except BaseException as error:
            reason = error.message if isinstance(error, ForgeError) else repr(error)
            self._end_early(telemetry, state="failed", reason=reason)
            raise
        finally:
            self._close(telemetry, interrupted=interrupted)

    def _phases(
        self, telemetry: Telemetry, *, resume: Path | None, allow_data_change: bool
    ) -> RunOutcome:
        record = self._recorder.record
        run = self._plan.context(resolved=record.resolved, notice=self._notice)
        self._preflight(run)
        self._reporter.phase("preparing data")
        prepared = prepare_data(self._manager, run, self._directory, check_stop=self._signals.check)
        check_fingerprints(
            record.fingerprints, prepared.fingerprints, allow_change=allow_data_change
        )
        total = planned_steps(self._recipe, prepared.batches)
        run = with_steps(run, total_steps=total)
        point = starting_point(self._plan, resume=resume)
        for warning in point.warnings:
            self._recorder.notice(warning)  # restoring has logged it
        engine = prepare_engine(self._manager, run, prepared.tokenizer)
        load_into(engine, point)
        self._restore_components(point.state)
        facts = model_facts(engine.model, prepared)
        micro = first_micro_batch(self._recipe, record.resolved, device=engine.device.type)
        self._note_resolved(engine, prepared, micro)
        self._recorder.step = self._first_step = point.state.step
        self._recorder.update(
            fingerprints=prepared.fingerprints,
            total_steps=self._recipe.train.extend_to or total,
        )
        problems = telemetry.tracker_problems()
        if problems:
            raise RecipeError(problems, source=str(self._recipe.source))
        self._signals.check()
        self._announce(telemetry, engine, facts=facts, point=point, micro=micro)
        ending, sampling = self._train(telemetry, engine, prepared, run, point, micro, total, facts)
        return self._finish(telemetry, engine, point.state, ending, sampling)

    # Preparing -----------------------------------------------------------------------------

    def _preflight(self, run: RunContext) -> None:
        problems = preflight_problems(self._components)
        for found in self._manager.hook.forge_preflight(run=run):
            problems += found
        if problems:
            raise RecipeError(problems, source=str(self._recipe.source))

    def _note_resolved(self, engine: Engine, prepared: PreparedData, micro: int) -> None:
        found = engine.resolution
        self._recorder.record.resolved = {
            "device": found.device,
            "precision": found.precision,
            "compile": found.compile,
            "hardware": found.hardware,
            "reasons": list(found.reasons),
            "micro_batch_size": micro,
            "data": getattr(prepared.data, "resolution", {}),
        }

    def _note_micro_batch(self, size: int) -> None:
        resolved = {**self._recorder.record.resolved, "micro_batch_size": size}
        self._recorder.update(resolved=resolved)

    def _restore_components(self, state: TrainerState) -> None:
        for selected in self._components.values():
            for component in selected:
                saved = state.components.get(f"{component.kind}:{component.name}")
                if saved is not None:
                    component.restore_state(saved)

    def _announce(
        self,
        telemetry: Telemetry,
        engine: Engine,
        *,
        facts: dict[str, Any],
        point: StartingPoint,
        micro: int,
    ) -> None:
        record, found, batch = self._recorder.record, engine.resolution, self._recipe.train
        resumed = None if point.checkpoint is None else point.state.step
        tokens = ", ".join(f"{name} {count:,}" for name, count in facts["tokens"].items())
        compiled = "compiled" if found.compile else "eager"
        begin = "new run" if resumed is None else f"going on from step {resumed}"
        if resumed is None and record.restarts > 1:
            begin = "starting at step 0: no checkpoint was written yet"
        lines = [
            f"run {self._plan.run_id}: {begin}",
            f"{found.hardware}, {found.precision}, {compiled}: {'; '.join(found.reasons)}",
            f"data: {facts['data']}; tokens: {tokens}",
            f"model: {facts['parameters']:,} parameters, vocabulary {facts['vocab_size']:,}",
            f"batch {batch.batch_size} = {micro} per micro-batch x {batch.batch_size // micro} "
            f"accumulated x 1 rank; {batch.batch_size * self._recipe.context:,} tokens a step",
        ]
        for line in lines:
            self._reporter.phase(line)
        telemetry.event(
            RunStarted(
                run_id=self._plan.run_id,
                attempt=record.attempt,
                restart=record.restarts,
                directory=str(self._directory.path.absolute()),
                config=self._recipe.tables,
                facts={**facts, "resolved": record.resolved, "provenance": record.provenance},
                resumed_from=resumed,
            )
        )
        telemetry.event(ArtifactWritten(name="recipe", path="recipe.toml", type="recipe"))
        telemetry.begin(point.state.step, _own_row(point.state))

    # Training ------------------------------------------------------------------------------

    def _train(
        self,
        telemetry: Telemetry,
        engine: Engine,
        prepared: PreparedData,
        run: RunContext,
        point: StartingPoint,
        micro: int,
        total: int,
        facts: dict[str, Any],
    ) -> tuple[Ending, Sampling]:
        recipe, batches = self._recipe, prepared.batches
        sampling = Sampling(
            recipe,
            manager=self._manager,
            run=run,
            engine=engine,
            tokenizer=prepared.tokenizer,
            directory=self._directory,
            emit=telemetry.event,
            signals=self._signals,
        )
        describe = Describer(
            self._plan.run_id,
            resolution=engine.resolution,
            history=telemetry.history,
            epoch=batches.epoch,
            context=recipe.context,
            data={name: facts[name] for name in ("data", "tokens", "bytes")},
        )
        sinks = Sinks(
            row=telemetry.row,
            event=telemetry.event,
            samples=sampling.at if recipe.generation.every else None,
            micro_batch=self._note_micro_batch,
            extra_metrics=lambda step: self._extra_metrics(run, step),
            stop_reason=lambda step: self._stop_reason(run, step),
            failure=telemetry.tracker_failure,
            component_state=lambda: self._component_state(run),
            metadata=describe,
        )
        with contextlib.ExitStack() as stack:
            writer = self._writer(telemetry, engine, point)
            if writer is not None:
                stack.enter_context(writer)
            loop = TrainingLoop(
                recipe,
                engine=engine,
                batches=batches,
                validation=prepared.splits.get("validation"),
                state=point.state,
                total_steps=total,
                micro_batch_size=micro,
                writer=writer,
                signals=self._signals,
                reporter=self._reporter,
                sinks=sinks,
                peak_flops=peak_flops(engine.resolution.hardware, engine.resolution.precision),
                set_step=lambda step: setattr(self._recorder, "step", step),
            )
            ending = loop.run()
            with self._signals.deferred():
                stack.close()
        if ending.state == "interrupted" and self._signals.requested is not None:
            raise Interrupted(f"{ending.reason} at step {point.state.step}, checkpoint saved")
        return ending, sampling

    def _writer(
        self, telemetry: Telemetry, engine: Engine, point: StartingPoint
    ) -> CheckpointWriter | None:
        recipe = self._recipe
        if not recipe.checkpoint.enabled:
            return None
        weights = sum(t.numel() * t.element_size() for t in engine.state().model.values())
        # Weights and two moments of an Adam, and one more checkpoint while the old one lives.
        self._directory.checkpoints.mkdir(exist_ok=True)
        preflight_space(self._directory.checkpoints, 2 * 3 * weights)

        def saved(checkpoint: SavedCheckpoint) -> None:
            telemetry.sync_rows()
            log.debug("checkpoint %s saved in %.2f s", checkpoint.path.name, checkpoint.seconds)
            telemetry.event(
                CheckpointSaved(
                    step=checkpoint.step,
                    path=str(checkpoint.path.relative_to(self._directory.path)),
                    size=checkpoint.size,
                    is_best=checkpoint.is_best,
                    seconds=checkpoint.seconds,
                )
            )

        return CheckpointWriter(
            self._directory.checkpoints,
            description=SelfDescription(
                recipe=to_toml(recipe.tables),
                recipe_hash=self._plan.identity.hash,
                tokenizer=self._directory.tokenizer,
            ),
            retention=Retention(
                keep_last=recipe.checkpoint.keep_last, keep_best=recipe.checkpoint.keep_best
            ),
            on_saved=saved,
            parent=None if point.checkpoint is None else point.checkpoint.step,
        )

    def _extra_metrics(self, run: RunContext, step: int) -> dict[str, float]:
        values: dict[str, float] = {}
        for found in self._manager.hook.forge_extra_metrics(run=run, step=step):
            values |= found
        return values

    def _stop_reason(self, run: RunContext, step: int) -> str | None:
        reasons = self._manager.hook.forge_stop_reason(run=run, step=step)
        return next(iter(reasons), None)

    def _component_state(self, run: RunContext) -> dict[str, Any]:
        return collect(self._manager, "forge_checkpoint_state", run=run)

    # Finishing -----------------------------------------------------------------------------

    def _finish(
        self,
        telemetry: Telemetry,
        engine: Engine,
        state: TrainerState,
        ending: Ending,
        sampling: Sampling,
    ) -> RunOutcome:
        finished = ending.state != "interrupted"
        samples: list[dict[str, Any]] = []
        if finished:
            self._reporter.phase("generating samples")
            samples = sampling.at(state.step)
        self._signals.check()
        artifacts = [path for finisher in self._finishers for path in finisher(self._directory)]
        for path in artifacts:
            name = str(path.relative_to(self._directory.path))
            telemetry.event(ArtifactWritten(name=path.stem, path=name, type="plot"))
        with self._signals.deferred():
            metrics = self._metrics(state, ending)
            write_json(self._directory.summary, metrics)
            telemetry.ended(self._ended(ending.state, ending.reason, metrics))
            self._record_end(telemetry, ending.state, ending.reason, metrics)
            if finished:
                write_completion(self._plan.root, self._completion(state, ending, metrics))
        return RunOutcome(
            directory=self._directory,
            state=ending.state,
            reason=ending.reason,
            metrics=metrics,
            samples=samples,
            engine=engine,
        )

    def _metrics(self, state: TrainerState, ending: Ending) -> dict[str, Any]:
        values = dict(self._recorder.record.metrics)
        values |= {"step": state.step, "state": ending.state, "reason": ending.reason}
        values["best"] = None if state.best is None else dataclasses.asdict(state.best)
        values["tokens_seen"] = state.sequences * self._recipe.context
        return values

    def _completion(
        self, state: TrainerState, ending: Ending, metrics: Mapping[str, Any]
    ) -> Completion:
        record = self._recorder.record
        directory = self._directory
        artifacts = {
            "checkpoints": directory.checkpoints,
            "metrics": directory.summary,
            "samples": directory.samples,
            "plots": directory.plots,
        }
        return Completion(
            run_id=self._plan.run_id,
            attempt=record.attempt,
            identity=self._plan.identity.hash,
            state=ending.state,
            reason=ending.reason,
            steps=state.step,
            final_loss=metrics.get("val/loss", metrics.get("train/loss")),
            best_loss=None if state.best is None else state.best.value,
            best_step=None if state.best is None else state.best.step,
            started=record.created,
            ended=time.time(),
            directory=str(directory.path.absolute()),
            artifacts={name: str(path) for name, path in artifacts.items() if path.exists()},
            next_command=f"forge generate {self._plan.run_id}",
        )

    def _end_early(self, telemetry: Telemetry | None, *, state: str, reason: str) -> None:
        """Tell and record that this start ended without finishing, as far as the disk lets it."""
        with self._signals.deferred():
            if telemetry is not None:
                failure = reason if state == "failed" else None
                telemetry.ended(self._ended(state, reason, {}), failure=failure)
            try:
                self._record_end(telemetry, state, reason, {})
            except OSError as error:
                log.warning("run.json does not say how the run ended: %s", error)

    def _close(self, telemetry: Telemetry | None, *, interrupted: bool) -> None:
        with self._signals.deferred():
            self._recorder.stop()
        if telemetry is None:
            return
        try:
            telemetry.close(interrupted=interrupted)
        except StopNow:
            telemetry.abandon()  # how the run ended is recorded already, and stays so

    def _ended(self, state: str, reason: str, metrics: Mapping[str, Any]) -> RunEnded:
        return RunEnded(state=state, reason=reason, step=self._recorder.step, metrics=metrics)

    def _record_end(
        self, telemetry: Telemetry | None, state: str, reason: str, metrics: Mapping[str, Any]
    ) -> None:
        step = self._recorder.step
        now = time.time()
        goodput = dict(self._recorder.record.goodput)
        spent = telemetry.compute_seconds if telemetry else 0.0
        for name, value in (
            ("wall_seconds", now - self._began),
            ("compute_seconds", spent),
            ("steps_computed", float(step - self._first_step)),
        ):
            goodput[name] = round(goodput.get(name, 0.0) + value, 3)
        useful = min(1.0, step / max(1.0, goodput["steps_computed"]))
        goodput["share"] = round(goodput["compute_seconds"] * useful / goodput["wall_seconds"], 4)
        self._recorder.update(
            state=state,
            exit_reason=reason,
            ended=now,
            goodput=goodput,
            metrics=dict(metrics) if metrics else self._recorder.record.metrics,
        )
        log.debug("%s after %s: %s", state, duration(now - self._began), reason)

    def _notice(self, text: str) -> None:
        self._reporter.notice(text)
        self._recorder.notice(text)


def _open_record(plan: Plan) -> RunRecord:
    """Return the run's record, begun or continued; checks that the recipe is the run's own."""
    directory = plan.directory
    now = time.time()
    if directory.record.exists():
        record = read_record(directory)
        check_identity(plan, record)
        record = dataclasses.replace(record, restarts=record.restarts + 1)
    elif directory.checkpoints.exists():
        raise RunError(
            f"{directory.path} has checkpoints but no run.json, so nothing says whose they are",
            remedy=f"forge runs clear {plan.run_id} keeps them aside and starts afresh",
        )
    else:
        record = RunRecord(
            plan.run_id,
            attempt=next_attempt(plan.root, plan.run_id),
            restarts=1,
            created=now,
            identity=dataclasses.asdict(plan.identity),
        )
    distributions = [
        entries(kind)[item.name].distribution
        for kind, selected in plan.recipe.selections.items()
        for item in selected
    ]
    record.state, record.exit_reason = "running", ""
    record.started, record.ended = now, None
    record.profile, record.tags = plan.recipe.profile, list(plan.recipe.run.tags)
    record.provenance = provenance(distributions)
    return record


@contextlib.contextmanager
def _full_disk_told(plan: Plan) -> Iterator[None]:
    """Turn the error of a full disk, wherever it shows, into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunError(
            f"no room to write {error.filename or plan.directory.path}: {error.strerror}",
            remedy="free some space, or choose another disk with run.root; the checkpoints are "
            "untouched, and the same command goes on from the newest",
        ) from error


def _own_row(state: TrainerState) -> dict[str, Any] | None:
    return state.row if state.row is not None and state.row["step"] == state.step else None
