"""One start of a run, in five phases: open, set up, train, finish, close.

Each can be killed at any instant, and the next start finds what was complete and does the rest.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmforge.distributed import Alone, Team
from llmforge.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    ForgeError,
    Interrupted,
)
from llmforge.events import ArtifactWritten, Event, RunEnded
from llmforge.interfaces import Engine
from llmforge.progress import duration
from llmforge.recipe import to_toml
from llmforge.redaction import redact
from llmforge.run.artifacts import Exporter, Finisher, export_model, make_artifacts
from llmforge.run.follower_rank import LeaderEnded
from llmforge.run.outcome import Ending, completion, final_metrics, goodput, with_best
from llmforge.run.plan import Components, Plan
from llmforge.run.reporting.checkpoint_metadata import Describer
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.samples import Sampling
from llmforge.run.reporting.system_metrics import SystemProbe, SystemSampler
from llmforge.run.reporting.telemetry import Telemetry, log_to
from llmforge.run.reporting.upload_status import grace_seconds
from llmforge.run.setup.checkpoint_writer import delete_uploaded, open_writer
from llmforge.run.setup.preflight import require_ready
from llmforge.run.setup.resume_from_storage import BroughtBack
from llmforge.run.setup.run_record import disk_errors_told, open_record, require_trace_ahead
from llmforge.run.setup.set_up import set_up
from llmforge.run.setup.training_setup import TrainingSetup
from llmforge.run.signals import StopNow, StopSignals
from llmforge.run.training.loop_outputs import LoopOutputs
from llmforge.rundir import Recorder, RunDirectory, RunLock, write_completion
from llmforge.rundir.atomic import write_json, write_text

log = logging.getLogger("llmforge.run")

_ALONE = Alone()


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a start of a run ended.

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
    exporter: Exporter | None = None,
    found: BroughtBack | None = None,
    team: Team = _ALONE,
) -> RunOutcome:
    """Train ``plan`` from where it stands until it ends; for the leader of the ranks.

    Args:
        plan: the run.
        signals: entered already, so that a signal is handled from the start of the process.
        reporter: shows what happens.
        resume: a checkpoint of this run to go back to.
        allow_data_change: continue although data or tokenizer changed.
        finishers: make artifacts at the end.
        exporter: writes the model at the end when the recipe asks for it.
        found: what storage knew of the run.
        team: the ranks that train together, the others in
            :func:`~llmforge.run.follower_rank.follow_run`.

    Raises:
        RunLockedError: another process trains this run.
        RecipeError: something a component needs is missing.
        Interrupted: a signal stopped it; what was trained is saved.
        ForgeError: anything else that a user can mend.
    """
    with disk_errors_told(plan), RunLock(plan.root, plan.run_id):
        directory = plan.directory
        require_trace_ahead(plan, resume=resume)
        record = open_record(plan, attempt=None if found is None else found.attempt)
        directory.path.mkdir(parents=True, exist_ok=True)
        write_text(directory.recipe, to_toml(plan.recipe.tables))
        start = _Start(
            plan,
            Recorder(directory, record),
            signals=signals,
            reporter=reporter,
            finishers=finishers,
            exporter=exporter,
            notices=() if found is None else found.notices,
            team=team,
        )
        level = plan.recipe.run.log_level
        with log_to(directory.path / plan.recipe.run.log_file, level), reporter:
            return start.run(resume=resume, allow_data_change=allow_data_change)


class _Start:
    """The phases of one start, in order, and what they share."""

    _telemetry: Telemetry | None = None
    _setup: TrainingSetup
    _sampling: Sampling

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        *,
        signals: StopSignals,
        reporter: Reporter,
        finishers: Sequence[Finisher],
        exporter: Exporter | None,
        notices: Sequence[str],
        team: Team,
    ) -> None:
        self._team = team
        self._together = False  # whether all ranks have ended their steps, and wait for the leader
        self._notices = notices
        self._plan = plan
        self._recorder = recorder
        self._signals = signals
        self._reporter = reporter
        self._finishers = finishers
        self._exporter = exporter
        self._components = Components(plan)
        self._began = time.time()
        self._first_step = 0

    def run(self, *, resume: Path | None, allow_data_change: bool) -> RunOutcome:
        interrupted = False
        ended = LeaderEnded(exit_code=EXIT_FAILURE, state="failed", reason="", metrics={})
        try:
            telemetry = self._open()
            self._set_up(telemetry, resume=resume, allow_data_change=allow_data_change)
            ending = self._train(telemetry)
            outcome = self._finish(telemetry, ending)
            ended = _ended_well(outcome)
            return outcome
        except (StopNow, Interrupted) as stop:
            interrupted = True
            reason = stop.message if isinstance(stop, Interrupted) else f"stopped by {stop}"
            state = self._signals.state
            ended = replace(ended, exit_code=EXIT_INTERRUPTED, state=state, reason=reason)
            self._end_early(state=state, reason=reason)
            raise Interrupted(reason, remedy="the same command resumes from here") from None
        except BaseException as caught:
            with self._signals.deferred():
                error = self._team.cause(caught)
            reason = redact(error.reason if isinstance(error, ForgeError) else repr(error))
            code = error.exit_code if isinstance(error, ForgeError) else EXIT_FAILURE
            state = "interrupted" if code == EXIT_INTERRUPTED else "failed"
            ended = replace(ended, exit_code=code, state=state, reason=reason)
            self._end_early(state=state, reason=reason)
            if error is caught:
                raise
            raise error from caught
        finally:
            self._close(interrupted=interrupted)
            if self._together:
                self._release_ranks(ended)

    # 1. Open: the run's record, and where its events go ---------------------------------------

    def _open(self) -> Telemetry:
        self._recorder.start()
        self._team.broadcast(self._recorder.record, patient=True)
        self._telemetry = Telemetry(
            self._plan.directory,
            self._plan.recipe,
            manager=self._components.manager,
            recorder=self._recorder,
        )
        return self._telemetry

    # 2. Set up: check everything, build data and engine, restore ------------------------------

    def _set_up(
        self, telemetry: Telemetry, *, resume: Path | None, allow_data_change: bool
    ) -> None:
        recorder = self._recorder
        for text in self._notices:
            self._notice(text)
        require_ready(
            self._plan,
            self._components,
            resolved=recorder.record.resolved,
            team=self._team,
            notice=self._notice,
            also=telemetry.tracker_problems,
        )
        for notice in telemetry.tracker_notices():
            self._notice(notice)
        self._reporter.phase("preparing data")
        setup = set_up(
            self._plan,
            self._components,
            recorder.record,
            team=self._team,
            notice=self._notice,
            check_stop=self._check_stop,
            resume=resume,
            allow_data_change=allow_data_change,
        )
        for warning in setup.point.warnings:
            recorder.notice(warning)  # restoring has logged it
        recorder.step = self._first_step = setup.point.state.step
        recorder.update(
            resolved=setup.resolved(),
            fingerprints=setup.fingerprints(),
            metrics=with_best(recorder.record.metrics, setup.point.state),
            total_steps=setup.last_step,
        )
        self._signals.check()
        for line in setup.describe(self._plan, recorder.record):
            self._reporter.say(line)
        self._setup = setup
        self._sampling = setup.sampling(
            self._plan.recipe,
            manager=self._components.manager,
            directory=self._plan.directory,
            emit=telemetry.event,
            signals=self._signals,
        )
        self._announce(telemetry)

    def _announce(self, telemetry: Telemetry) -> None:
        """Send the start of the run to trackers and callbacks, and start its uploads."""
        state, trial = self._setup.point.state, self._plan.trial
        telemetry.event(self._setup.started(self._plan, self._recorder.record))
        if trial is not None:
            telemetry.event(trial.started(self._plan.run_id))
        telemetry.event(ArtifactWritten(name="recipe", path="recipe.toml", type="recipe"))
        telemetry.begin(state.step, state.row)
        telemetry.begin_uploads()

    def _check_stop(self) -> None:
        self._signals.check()
        self._team.check_peers()

    def _notice(self, text: str) -> None:
        self._reporter.notice(text)
        self._recorder.notice(redact(text))

    # 3. Train: the step loop, with checkpoints and measurements beside it ----------------------

    def _train(self, telemetry: Telemetry) -> Ending:
        setup = self._setup
        with contextlib.ExitStack() as stack:
            self._team.broadcast(None, patient=True)  # the others wait for what was prepared here
            writer = open_writer(self._plan, setup, telemetry, team=self._team)
            if writer is not None:
                stack.enter_context(writer)
            stack.enter_context(self._system_sampler(telemetry))
            loop = setup.loop(
                self._plan.recipe,
                manager=self._components.manager,
                writer=writer,
                signals=self._signals,
                team=self._team,
                reporter=self._reporter,
                outputs=self._outputs(telemetry),
                set_step=lambda step: setattr(self._recorder, "step", step),
            )
            ending = loop.run()
            self._together = True
            with self._signals.deferred():
                stack.close()
        if ending.error is not None:
            raise ending.error
        if ending.state == "interrupted" and self._signals.requested is not None:
            step = setup.point.state.step
            raise Interrupted(f"{ending.reason} at step {step}, checkpoint saved")
        return ending

    def _system_sampler(self, telemetry: Telemetry) -> SystemSampler:
        directory, device = self._plan.directory, self._setup.engine.resolution.device
        return SystemSampler(
            SystemProbe(disk=directory.path, device=device).read,
            every=self._plan.recipe.train.system_every,
            path=directory.system,
            tell=telemetry.measured,
        )

    def _outputs(self, telemetry: Telemetry) -> LoopOutputs:
        recipe, components, setup = self._plan.recipe, self._components, self._setup
        return LoopOutputs(
            row=telemetry.row,
            event=telemetry.event,
            samples=self._sampling.at,
            samples_due=self._sampling.due,
            micro_batch=lambda size: self._record_resolved("micro_batch_size", size),
            evaluation_rows=lambda rows: self._record_resolved("eval_batch_size", rows),
            extra_metrics=lambda step: components.extra_metrics(setup.run, step),
            stop_reason=lambda step: components.stop_reason(setup.run, step),
            failure=telemetry.failure,
            secure=self._secure(telemetry),
            component_state=lambda: components.state(setup.run),
            metadata=Describer(
                self._plan.run_id,
                resolution=setup.engine.resolution,
                history=telemetry.history,
                epoch=setup.prepared.batches.epoch,
                context=recipe.context,
                data={name: setup.facts[name] for name in ("data", "tokens", "bytes")},
                files=setup.prepared.files,
                model=setup.model_source(),
            ),
        )

    def _secure(self, telemetry: Telemetry) -> Callable[[int], None] | None:
        uploads = telemetry.uploads
        if uploads is None or self._plan.recipe.storage.background:
            return None
        return lambda step: uploads.wait_for(step, stop=lambda: self._signals.requested is not None)

    def _record_resolved(self, name: str, value: object) -> None:
        self._recorder.update(resolved={**self._recorder.record.resolved, name: value})

    # 4. Finish: samples, curves, metrics.json, completion, uploads -----------------------------

    def _finish(self, telemetry: Telemetry, ending: Ending) -> RunOutcome:
        state, directory = self._setup.point.state, self._plan.directory
        finished = ending.state != "interrupted"
        samples: list[dict[str, Any]] = []
        if finished:
            if self._plan.recipe.generation.prompts or self._plan.recipe.generation.tests:
                self._reporter.phase("generating samples")
            samples = self._sampling.at(state.step, final=True)
            if directory.examples.exists():
                name = directory.examples.name
                telemetry.event(ArtifactWritten(name="examples", path=name, type="samples"))
        self._signals.check()
        for path in make_artifacts(self._finishers, directory, notice=self._notice):
            name = str(path.relative_to(directory.path))
            telemetry.event(ArtifactWritten(name=path.stem, path=name, type="plot"))
        if finished and self._plan.recipe.export.at_end and self._exporter is not None:
            self._reporter.phase("exporting the model")
            export_model(self._exporter, self._plan, notice=self._notice)
            self._signals.check()
        with self._signals.deferred():
            record = self._recorder.record
            tokens_seen = self._setup.prepared.batches.tokens(state.sequences)
            metrics = final_metrics(record, state, ending, tokens_seen=tokens_seen)
            write_json(directory.summary, metrics)
            self._record_end(ending.state, ending.reason, metrics)
            if finished:
                write_completion(
                    self._plan.root, completion(self._plan, record, state, ending, metrics)
                )
            telemetry.alert("finish", state=ending.state, reason=ending.reason)
        self._finish_uploads(telemetry, stopped_by=self._signals.requested)
        with self._signals.deferred():
            telemetry.ended(*self._ended(ending.state, ending.reason, metrics))
        return RunOutcome(
            directory=directory,
            state=ending.state,
            reason=ending.reason,
            metrics=metrics,
            samples=samples,
            engine=self._setup.engine,
        )

    def _end_early(self, *, state: str, reason: str) -> None:
        """Record and report that this start ended without finishing, as far as the disk allows."""
        with self._signals.deferred():
            try:
                self._record_end(state, reason, {})
            except OSError as error:
                log.warning("run.json does not say how the run ended: %s", error)
        telemetry = self._telemetry
        if telemetry is None:
            return
        with self._signals.deferred():
            occasion = "failure" if state == "failed" else "interrupt"
            telemetry.alert(occasion, state=state, reason=reason)
        self._finish_uploads(telemetry, stopped_by=self._signals.requested or "failure")
        with self._signals.deferred():
            failure = reason if state == "failed" else None
            telemetry.ended(*self._ended(state, reason, {}), failure=failure)

    def _finish_uploads(self, telemetry: Telemetry, *, stopped_by: str | None) -> None:
        if telemetry.uploads is not None and telemetry.uploads_started:
            self._reporter.phase("finishing uploads; Ctrl-C leaves the rest to the next start")
            seconds = grace_seconds(self._plan.recipe.storage, stopped_by=stopped_by)
            telemetry.finish_uploads(seconds)
            with self._signals.deferred():
                delete_uploaded(self._plan, telemetry.uploads)

    def _ended(self, state: str, reason: str, metrics: Mapping[str, Any]) -> list[Event]:
        """Return the events that end this start, the run's own last."""
        trial, step = self._plan.trial, self._recorder.step
        ended = RunEnded(state=state, reason=reason, step=step, metrics=metrics)
        return [ended] if trial is None else [trial.ended(self._plan.run_id, state), ended]

    def _record_end(self, state: str, reason: str, metrics: Mapping[str, Any]) -> None:
        record, step, now = self._recorder.record, self._recorder.step, time.time()
        level = logging.ERROR if state == "failed" else logging.INFO
        took = duration(now - self._began)
        # For the log file: on the screen it is said with what to do next.
        log.log(level, "%s after %s: %s", state, took, reason, extra={"screen": False})
        self._recorder.update(
            state=state,
            exit_reason=reason,
            ended=now,
            goodput=goodput(
                record.goodput,
                wall=now - self._began,
                compute=self._telemetry.compute_seconds if self._telemetry else 0.0,
                steps=step - self._first_step,
                step=step,
            ),
            metrics=dict(metrics) or record.metrics,
        )

    # 5. Close: the record, the trackers, the other ranks ---------------------------------------

    def _close(self, *, interrupted: bool) -> None:
        with self._signals.deferred():
            self._recorder.stop()
        if self._telemetry is None:
            return
        try:
            self._telemetry.close(interrupted=interrupted)
        except StopNow:
            self._telemetry.abandon()  # how the run ended is recorded already, and stays so

    def _release_ranks(self, ended: LeaderEnded) -> None:
        """Let the other ranks end too, the same way."""
        with self._signals.deferred():
            try:
                self._team.broadcast(ended, patient=True)
            except RuntimeError as error:
                log.debug("a rank was gone before it learned that the run has ended: %s", error)


def _ended_well(outcome: RunOutcome) -> LeaderEnded:
    return LeaderEnded(
        exit_code=EXIT_OK,
        state=outcome.state,
        reason=outcome.reason,
        metrics=outcome.metrics,
        samples=tuple(outcome.samples),
    )
