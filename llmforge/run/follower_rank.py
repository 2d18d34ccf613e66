"""What every rank but the leader does of a run: its share of each step, and nothing on disk."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.distributed import Team
from llmforge.errors import EXIT_OK, PeerFailed, RunError
from llmforge.run.plan import Components, Plan
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.samples import Sampling
from llmforge.run.reporting.telemetry import log_to
from llmforge.run.setup.checkpoint_writer import open_writer
from llmforge.run.setup.preflight import require_ready
from llmforge.run.setup.set_up import set_up
from llmforge.run.setup.training_setup import TrainingSetup
from llmforge.run.signals import StopNow, StopSignals
from llmforge.run.training.loop_outputs import LoopOutputs
from llmforge.rundir import RunDirectory, RunRecord

log = logging.getLogger("llmforge.run")

_SHARED_SECONDS = 10.0  # network file systems show a new file late
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class LeaderEnded:
    """What the leader tells the others when it has done all that is to do.

    Attributes:
        exit_code: of the run.
        state: of ``run.json``.
        reason: in words.
        metrics: content of ``metrics.json``.
        samples: generated texts.
    """

    exit_code: int
    state: str
    reason: str
    metrics: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...] = ()


class _Quiet(Reporter):
    """Writes to the log what another rank shows, at a level that the screen leaves out."""

    def say(self, text: str) -> None:
        log.debug(text)

    def notice(self, text: str) -> None:
        log.info(text)

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        del timing
        log.debug("step %d of %d", row["step"], total)

    def evaluation(self, step: int, values: Mapping[str, float], *, is_best: bool) -> None:
        del values, is_best
        log.debug("evaluated at step %d", step)


def follow_run(
    plan: Plan,
    *,
    team: Team,
    signals: StopSignals,
    resume: Path | None,
    allow_data_change: bool,
) -> LeaderEnded:
    """Train ``plan`` along with the leader until it has ended.

    Raises:
        PeerFailed: the run did not end well; the leader has said why.
        ForgeError: something is wrong here that a user can mend.
        StopNow: a signal arrived before the steps.
    """
    record: RunRecord = team.broadcast(None, patient=True)  # type: ignore[assignment]
    directory = plan.directory
    _require_shared(directory)
    name = Path(plan.recipe.run.log_file)
    path = directory.path / name.with_name(f"{name.stem}-rank-{team.place.rank}{name.suffix}")
    with log_to(path, plan.recipe.run.log_level):
        setup, components, sampling = _take_place(
            plan,
            record,
            team=team,
            signals=signals,
            resume=resume,
            allow_data_change=allow_data_change,
        )
        with signals.deferred(), contextlib.ExitStack() as stack:
            writer = open_writer(plan, setup, None, team=team)
            if writer is not None:
                stack.enter_context(writer)
            ending = setup.loop(
                plan.recipe,
                manager=components.manager,
                writer=writer,
                signals=signals,
                team=team,
                reporter=_Quiet(),
                outputs=_outputs(plan, sampling),
                set_step=_ignore,
            ).run()
            stack.close()
            if ending.state not in ("interrupted", "failed"):
                with contextlib.suppress(StopNow):  # how the run ends is the leader's to say now
                    sampling.at(setup.point.state.step, final=True)
            ended: LeaderEnded = team.broadcast(None, patient=True)  # type: ignore[assignment]
    if ended.exit_code != EXIT_OK:
        raise PeerFailed(ended.reason, exit_code=ended.exit_code)
    return ended


def _take_place(
    plan: Plan,
    record: RunRecord,
    *,
    team: Team,
    signals: StopSignals,
    resume: Path | None,
    allow_data_change: bool,
) -> tuple[TrainingSetup, Components, Sampling]:
    components = Components(plan)
    notice = _Quiet().notice
    require_ready(plan, components, resolved=record.resolved, team=team, notice=notice)
    setup = set_up(
        plan,
        components,
        record,
        team=team,
        notice=notice,
        check_stop=signals.check,
        resume=resume,
        allow_data_change=allow_data_change,
    )
    sampling = setup.sampling(
        plan.recipe,
        manager=components.manager,
        directory=None,
        emit=_ignore,
        signals=signals,
    )
    team.broadcast(None, patient=True)  # the leader has more to prepare
    return setup, components, sampling


def _outputs(plan: Plan, sampling: Sampling) -> LoopOutputs:
    """Return outputs that take nothing and have nothing to say: the leader's do."""
    storage = plan.recipe.storage
    return LoopOutputs(
        row=lambda _row, _timing: None,
        event=_ignore,
        samples=sampling.at,
        samples_due=sampling.due,
        micro_batch=_ignore,
        evaluation_rows=_ignore,
        extra_metrics=lambda _step: {},
        stop_reason=lambda _step: None,
        failure=lambda: None,
        secure=None if storage.url is None or storage.background else _ignore,
        component_state=dict,
        metadata=lambda _state: {},
    )


def _require_shared(directory: RunDirectory) -> None:
    end = time.monotonic() + _SHARED_SECONDS
    while not directory.record.exists():
        if time.monotonic() > end:
            raise RunError(
                f"{directory.path.absolute()} is not the directory that rank 0 writes to",
                remedy="set run.root to a directory on a file system that all machines share",
            )
        time.sleep(_POLL_SECONDS)


def _ignore(_value: object) -> None:
    return None
