"""Proving that a recipe resumes exactly: a run nobody disturbs, a run that is killed, compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmforge.checkpoint import list_checkpoints
from llmforge.checkpoint.hashed_files import hash_file
from llmforge.checkpoint.manifest import MANIFEST
from llmforge.errors import RunError
from llmforge.proof.certificate import (
    Certificate,
    Comparison,
    File,
    Goodput,
    Kill,
    KilledRun,
    ProvedRecipe,
    ProvedRun,
    verdict_of,
)
from llmforge.proof.compare_runs import auto_choices, compare_runs
from llmforge.proof.kill_plan import Target, Timeline, plan_kills
from llmforge.proof.killed_run import KilledRunTraining
from llmforge.proof.phases import Phases, Watch
from llmforge.proof.place import Place, ProofDirectory, as_arguments, proof_settings, threads
from llmforge.proof.trainer_process import TrainerProcess
from llmforge.recipe import Recipe, identity
from llmforge.rundir import RunDirectory, RunRecord, read_record, write_record

GPU_TOLERANCE = 1e-3
"""Relative; kernels of a GPU add in an order that is not always the same."""

_HANGS_AFTER = 10.0
"""Times the reference's seconds, and :data:`_HANGS_SECONDS` more."""
_HANGS_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is to be proved, and how hard.

    Attributes:
        source: the recipe's file or name, as typed.
        profile: laid over it.
        changes: recipe keys the user sets, as ``key=value``.
        kills: how many.
        seed: draws the instants.
        tolerance: relative; None for 0 on a CPU, else :data:`GPU_TOLERANCE`.
    """

    source: str
    profile: str | None
    changes: tuple[str, ...]
    kills: int
    seed: int
    tolerance: float | None = None


class Prover:
    """Trains and compares.

    Args:
        proof: what is to be proved.
        recipe: as it is loaded with the user's own changes.
        run_id: of its run.
        directory: opened already.
        say: told of each run and kill, in a line.
        check_stop: raises when the user wants to stop.
    """

    def __init__(
        self,
        proof: Proof,
        recipe: Recipe,
        *,
        run_id: str,
        directory: ProofDirectory,
        say: Callable[[str], None],
        check_stop: Callable[[], None],
    ) -> None:
        self._proof = proof
        self._recipe = recipe
        self._run_id = run_id
        self._directory = directory
        self._say = say
        self._check_stop = check_stop
        self._settings = proof_settings(recipe)
        self._draw = random.Random(proof.seed)
        self._killed = 0

    def prove(self) -> Certificate:
        """Train without kills and with them, compare, and return what came out.

        Raises:
            RunError: the run cannot be trained, or ends before any kill.
        """
        place = self._directory.place("reference")
        timeline, seconds = self._train_reference(place)
        record = read_record(place.run)
        tolerance = self._tolerance(record)
        targets = plan_kills(timeline, kills=self._proof.kills, draw=self._draw)
        killed: list[KilledRun] = []
        repeated = 0
        while targets:
            own = self._directory.place(f"killed-{len(killed) + 1}")
            training = self._train_killed(own, targets, record, longest=seconds)
            repeated += training.steps_repeated
            killed.append(self._compared(place, own, training, tolerance=tolerance))
            if training.failure:
                break
            if not training.kills and len(killed) > 1:
                raise RunError(
                    f"{self._run_id} ended before it could be killed "
                    f"({len(targets)} of {self._proof.kills} kills were left)",
                    remedy="train longer, for example with --set train.max_steps=…, or kill less "
                    "often with --kills",
                )
            missed = targets[len(training.kills) :]
            targets = [replace(target, delay=0.0) for target in missed]
        return self._certificate(record, proved_run(place, seconds), killed, repeated, tolerance)

    # Training --------------------------------------------------------------------------------

    def _train_reference(self, place: Place) -> tuple[Timeline, float]:
        """Train undisturbed; return what was seen when, and the seconds it took."""
        timeline = Timeline()

        def watched(phases: Phases) -> bool:
            timeline.add(phases)
            return False

        with self._start(place) as process:
            process.wait_for(watched)
            seconds = process.seconds
            if not process.ended_well:
                raise RunError(
                    f"the run ended with exit code {process.exit_code} before anything was killed: "
                    f"{process.last_words()}",
                    remedy=f"first make it train: {self._command()}",
                )
        steps = [str(item.step) for item in list_checkpoints(place.run.checkpoints)]
        self._say(
            f"reference: {read_record(place.run).step} steps in {seconds:.1f} s, "
            f"checkpoints of step {', '.join(steps)}"
        )
        return timeline, seconds

    def _train_killed(
        self, place: Place, targets: Sequence[Target], record: RunRecord, *, longest: float
    ) -> KilledRunTraining:
        self._hand_on_choices(place.run, record)
        training = KilledRunTraining(
            place.run,
            start=lambda: self._start(place, longest=_HANGS_AFTER * longest + _HANGS_SECONDS),
            draw=self._draw,
            say=self._say_kill,
        )
        training.train(targets)
        self._say(
            f"resumed to the end, {training.seconds:.1f} s in all"
            if not training.failure
            else training.failure
        )
        return training

    def _start(self, place: Place, *, longest: float | None = None) -> TrainerProcess:
        return TrainerProcess(
            [*self._arguments(), *as_arguments(self._settings | place.settings())],
            environment=place.environment(),
            output=place.output,
            watch=Watch(place.run, log=place.log),
            check_stop=self._check_stop,
            seconds=longest,
        )

    def _arguments(self) -> list[str]:
        profile = [] if self._proof.profile is None else ["--profile", self._proof.profile]
        changes = [part for change in self._proof.changes for part in ("--set", change)]
        return ["train", self._proof.source, *profile, *changes]

    def _command(self) -> str:
        return " ".join(["forge", *self._arguments()])

    def _hand_on_choices(self, run: RunDirectory, reference: RunRecord) -> None:
        """Let the killed run start with what ``auto`` became in the reference.

        What is measured may come out differently each time, and other kernels round differently.
        A run keeps the choices of its first start, so this is that start's record.
        """
        run.path.mkdir(parents=True)
        record = RunRecord(
            run.id,
            state="interrupted",
            created=time.time(),
            identity=dict(reference.identity),
            resolved=dict(reference.resolved),
        )
        write_record(run, record)

    def _say_kill(self, kill: Kill) -> None:
        self._killed += 1
        doing = ", ".join(f"{name} at step {step}" for name, step in kill.phases.items())
        with_it = " with its courier" if kill.courier else ""
        self._say(
            f"kill {self._killed} of {self._proof.kills}: process {kill.pid}{with_it} after "
            f"{kill.after:.1f} s, {doing}"
        )

    # Comparing -------------------------------------------------------------------------------

    def _tolerance(self, record: RunRecord) -> float:
        if self._proof.tolerance is not None:
            return self._proof.tolerance
        return 0.0 if record.resolved.get("device") == "cpu" else GPU_TOLERANCE

    def _compared(
        self, reference: Place, own: Place, training: KilledRunTraining, *, tolerance: float
    ) -> KilledRun:
        found: tuple[Comparison, ...] = ()
        if not training.failure:
            found = compare_runs(reference.run, own.run, tolerance=tolerance)
        return KilledRun(
            run=proved_run(own, training.seconds),
            kills=tuple(training.kills),
            failure=training.failure,
            comparisons=found,
        )

    def _certificate(
        self,
        record: RunRecord,
        reference: ProvedRun,
        killed: Sequence[KilledRun],
        repeated: int,
        tolerance: float,
    ) -> Certificate:
        provenance: Mapping[str, Any] = record.provenance
        spent = sum(item.run.seconds for item in killed)
        lost = max(0.0, spent - len(killed) * reference.seconds)
        return Certificate(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=verdict_of(tuple(killed)),
            run_id=self._run_id,
            recipe=self._proved_recipe(),
            seed=self._proof.seed,
            kills=self._proof.kills,
            tolerance=tolerance,
            hardware={
                "device": record.resolved.get("device"),
                "hardware": record.resolved.get("hardware"),
                "threads": threads(),
                "cpu_count": provenance.get("cpu_count"),
                "platform": provenance.get("platform"),
            },
            versions={"python": provenance.get("python", ""), **provenance.get("packages", {})},
            auto=auto_choices(record.resolved),
            reference=reference,
            killed=tuple(killed),
            lost=Goodput(
                steps=repeated,
                seconds=round(lost, 3),
                share=round(lost / max(1e-9, spent), 4),
            ),
        )

    def _proved_recipe(self) -> ProvedRecipe:
        own = identity(self._recipe)
        return ProvedRecipe(
            source=self._proof.source,
            profile=self._proof.profile,
            changes=self._proof.changes,
            replaced={
                **self._settings,
                "run.root": "each run its own",
                "storage.url": self._directory.storage,
            },
            hash=own.hash,
            keys=dict(own.keys),
            schema_version=own.schema_version,
            resolved=dict(self._recipe.tables),
        )


def proved_run(place: Place, seconds: float) -> ProvedRun:
    """Return what a certificate says of a run, its compared files hashed."""
    record = read_record(place.run)
    checkpoints = list_checkpoints(place.run.checkpoints)
    files: dict[str, File] = {}
    for item in [*checkpoints[-1:], *[item for item in checkpoints if item.is_best][-1:]]:
        folder = item.path.relative_to(place.run.path)
        for name, entry in item.manifest.files.items():
            files[str(folder / name)] = File(size=entry.size, sha256=entry.sha256)
        files[str(folder / MANIFEST)] = _file(item.path / MANIFEST)
    for path in (place.run.metrics, place.run.samples):
        if path.exists():
            files[path.name] = _file(path)
    return ProvedRun(
        directory=str(place.run.path),
        seconds=round(seconds, 3),
        state=record.state,
        step=record.step,
        files=files,
    )


def _file(path: Path) -> File:
    return File(size=path.stat().st_size, sha256=hash_file(path))
