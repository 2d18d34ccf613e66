"""Training a run that is killed again and again, each time resumed by the same command."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from llmforge.checkpoint import list_checkpoints
from llmforge.errors import RunError
from llmforge.proof.certificate import Kill
from llmforge.proof.kill_plan import Target
from llmforge.proof.phases import UPLOADING
from llmforge.proof.trainer_process import TrainerProcess
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import read_uploads

_NAP = 0.02


class KilledRunTraining:
    """Trains one run to its end, with kills on the way.

    Args:
        run: its directory.
        start: starts the process that trains it; the same command each time.
        draw: decides whether a courier is killed with its trainer.
        say: told of each kill.

    Attributes:
        kills: those that hit, in order.
        seconds: that the starts took together.
        steps_repeated: steps that were computed again after a kill, as far as rows show.
        failure: what a resumed start failed with; empty when none did.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        start: Callable[[], TrainerProcess],
        draw: random.Random,
        say: Callable[[Kill], None],
    ) -> None:
        self.kills: list[Kill] = []
        self.seconds = 0.0
        self.steps_repeated = 0
        self.failure = ""
        self._run = run
        self._start = start
        self._draw = draw
        self._say = say
        self._reached = 0

    def train(self, targets: Sequence[Target]) -> int:
        """Kill at each of ``targets`` and then train to the end; return how many were hit.

        Fewer are hit when the run ends, or fails, before.
        """
        for hit, target in enumerate(targets):
            if not self._train_until(target):
                return hit
        self._train_until(None)
        return len(targets)

    def _train_until(self, target: Target | None) -> bool:
        """Start the command; kill it at ``target`` and return True, or False when it ended."""
        try:
            with self._start() as process:
                kill = None if target is None else self._kill_at(process, target)
                if kill is None:
                    process.wait_for(lambda _: False)
                process.watch.look()
                self._note_resume(process, ended=kill is None)
                self.seconds += process.seconds
                if kill is None:
                    self._note_end(process)
                    return False
        except RunError as error:  # it hangs
            self.failure = error.message
            return False
        self.kills.append(kill)
        self._say(kill)
        return True

    def _note_end(self, process: TrainerProcess) -> None:
        if not process.ended_well:
            words = process.last_words()
            self.failure = f"the resumed run ended with exit code {process.exit_code}: {words}"

    def _kill_at(self, process: TrainerProcess, target: Target) -> Kill | None:
        """Kill the process in the phase of ``target``; None when it ended before.

        It is stopped first and looked at, so that what is reported is what was killed. If it has
        left the phase meanwhile, it continues to the next one of its kind.
        """
        delay = target.delay
        while process.wait_for(target.reached):
            until = time.monotonic() + delay
            while time.monotonic() < until and process.exit_code is None:
                time.sleep(min(_NAP, max(0.0, until - time.monotonic())))
            if not process.stop():
                return None
            phases = dict(process.watch.look())
            if target.reached(phases):
                return self._kill(process, target, phases)
            process.resume()
            delay = 0.0
        return None

    def _kill(self, process: TrainerProcess, target: Target, phases: dict[str, int]) -> Kill:
        courier = target.phase == UPLOADING or self._draw.random() < 0.5
        process.kill(courier=courier)
        return Kill(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            pid=process.pid,
            aimed_at=target.phase,
            phases=phases,
            step=process.watch.step,
            after=round(process.seconds, 3),
            courier=courier,
            left=tuple(left_behind(self._run)),
        )

    def _note_resume(self, process: TrainerProcess, *, ended: bool) -> None:
        """Note where this start resumed from, in the kills before it that nothing resumed yet."""
        watch = process.watch
        if not watch.started:
            return
        resumed = watch.resumed_from or 0
        self.kills = [
            kill
            if kill.resumed_from is not None
            else kill.model_copy(update={"resumed_from": resumed})
            for kill in self.kills
        ]
        self.steps_repeated += max(0, self._reached - resumed)
        self._reached = 0 if ended else watch.step


def left_behind(run: RunDirectory) -> list[str]:
    """Return what a killed process left in a run's directory, in words."""
    found = []
    steps = [str(item.step) for item in list_checkpoints(run.checkpoints)]
    if steps:
        found.append(f"checkpoints of step {', '.join(steps)}")
    found += [
        f"{path.name} with {sum(1 for _ in path.rglob('*'))} files"
        for path in sorted(run.checkpoints.glob(".*"))
    ]
    rows = run.metrics.read_bytes() if run.metrics.exists() else b""
    if rows:
        whole, torn = rows.count(b"\n"), "" if rows.endswith(b"\n") else " and a torn one"
        found.append(f"{whole} rows of metrics{torn}")
    found += [f"upload of step {item.step} {item.state}" for item in read_uploads(run).values()]
    return found
