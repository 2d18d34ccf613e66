"""Sweeps against plain Optuna written by hand, on the simulated surface.

    python benchmarks/sweep.py [--trials 30] [--seeds 5] [--study URL] [--json FILE]

Three tables. *Found*: the loss above the best there is after so many trials, mean and spread over
seeds, for each sampler through llmforge and in a loop over Optuna's own study. *Overhead*: what a
trial costs beyond itself, with the trials in a journal file: proposing, claiming, reporting ten
times, finishing. *Workers*: wall time of twelve trials of half a second with 1, 2 and 4 worker
processes on one study, a journal file or the database at ``--study``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

from sweep_parts import make_goal

from llmforge.interfaces import Dimension, Space
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.trial_storage import open_storage
from llmforge.sweeps.trials import points
from llmforge.sweeps.worker import Worker
from llmforge.testing import SimulatedTrials
from llmforge.testing.simulated import BEST_LOSS, level, loss_at

RATE, WIDTH, BATCH = "optimizer.adamw.lr", "model.transformer.width", "train.batch_size"
SPACE = Space(
    dimensions=(
        Dimension(key=RATE, kind="float", low=1e-5, high=1.0, log=True),
        Dimension(key=WIDTH, kind="int", low=32, high=2048, step=1, log=True),
        Dimension(key=BATCH, kind="choice", choices=(4, 8, 16, 32, 64)),
    )
)
SAMPLERS = ("random", "qmc", "cmaes", "tpe", "gp")
STARTUP = 5
REPORTS = 10


def ours(
    sampler: str, trials: int, seed: int, *, steps: int = 1, every: int = 1
) -> tuple[float, float]:
    """Return the best level that llmforge finds, and the seconds it takes."""
    options: dict[str, Any] = {"sampler": sampler, "startup_points": STARTUP}
    goal = make_goal("optuna", SPACE, options=options, max_trials=trials, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(open_storage(None, journal=Path(folder) / "journal.log"), "bench")
        executor = SimulatedTrials(Path(folder) / "runs", steps=steps, every=every)
        begin = time.perf_counter()
        Worker(goal, ledger, executor).run()
        seconds = time.perf_counter() - begin
        tried = points(ledger.trials(), SPACE)
    return min(level(point.parameters) for point in tried), seconds


def by_hand(sampler: str, trials: int, seed: int, *, reports: int = 1) -> tuple[float, float]:
    """Return the same of a loop over an Optuna study with its own journal file."""
    samplers: dict[str, Any] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True
        ),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP),
    }
    with tempfile.TemporaryDirectory() as folder:
        backend = optuna.storages.journal.JournalFileBackend(str(Path(folder) / "journal.log"))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(sampler=samplers[sampler](), storage=storage)
        best = float("inf")
        begin = time.perf_counter()
        for _ in range(trials):
            trial = study.ask()
            found = {
                RATE: trial.suggest_float(RATE, 1e-5, 1.0, log=True),
                WIDTH: trial.suggest_int(WIDTH, 32, 2048, log=True),
                BATCH: trial.suggest_categorical(BATCH, (4, 8, 16, 32, 64)),
            }
            for step in range(1, reports + 1):
                trial.report(loss_at(found, step / reports), step)
            study.tell(trial, loss_at(found, 1.0))
            best = min(best, level(found))
        return best, time.perf_counter() - begin


def found_table(trials: int, seeds: int) -> list[dict[str, Any]]:
    """Return how far each sampler comes, through llmforge and by hand."""
    rows = []
    for sampler in SAMPLERS:
        row: dict[str, Any] = {"sampler": sampler}
        for name, search in (("llmforge", ours), ("by hand", by_hand)):
            gaps = [search(sampler, trials, seed)[0] - BEST_LOSS for seed in range(seeds)]
            row[name] = statistics.fmean(gaps)
            row[f"{name} spread"] = statistics.stdev(gaps) if seeds > 1 else 0.0
        rows.append(row)
    return rows


def overhead_table(trials: int) -> list[dict[str, Any]]:
    """Return milliseconds that a trial costs beyond itself; the simulated trials cost nothing."""
    rows = []
    for sampler in ("random", "tpe"):
        for search in (ours, by_hand):
            search(sampler, STARTUP, 0)  # whatever is imported late is imported now
        own = ours(sampler, trials, 0, steps=REPORTS)[1]
        plain = by_hand(sampler, trials, 0, reports=REPORTS)[1]
        rows.append(
            {"sampler": sampler, "llmforge": own / trials * 1e3, "by hand": plain / trials * 1e3}
        )
    return rows


def workers_table(study: str | None) -> list[dict[str, Any]]:
    """Return wall seconds of twelve trials of half a second with 1, 2 and 4 processes."""
    rows = []
    for workers in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            place, name = Path(folder), f"bench-{uuid.uuid4()}"
            open_ledger(place, study, name)
            begin = time.perf_counter()
            pids = [_fork(place, study, name) for _ in range(workers)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            seconds = time.perf_counter() - begin
            trials = open_ledger(place, study, name).trials()
            assert codes == [0] * workers, codes
            assert [trial.state for trial in trials] == ["completed"] * 12
            assert sum(len(trial.attempts) for trial in trials) == 12
        rows.append({"workers": workers, "seconds": seconds})
    return rows


def open_ledger(folder: Path, study: str | None, name: str) -> Ledger:
    """Open a ledger, as each process does for itself."""
    return Ledger(open_storage(study, journal=folder / "journal.log"), name)


def _fork(folder: Path, study: str | None, name: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            goal = make_goal("random", SPACE, max_trials=12)
            executor = SimulatedTrials(folder / "runs", steps=10, every=1, seconds=0.5)
            Worker(goal, open_ledger(folder, study, name), executor, poll_seconds=0.02).run()
        except BaseException as error:
            print(f"worker: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--study", help="database URL for the table of workers")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = {
        f"loss above the best after {given.trials} trials": found_table(given.trials, given.seeds),
        "milliseconds per trial beyond the trial": overhead_table(100),
        f"seconds on {given.study or 'a journal file'}": workers_table(given.study),
    }
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows:
            print(
                "  "
                + "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in row.items()
                )
            )
    if given.json:
        given.json.write_text(json.dumps(tables, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
