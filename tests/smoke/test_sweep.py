"""``forge sweep`` on real tiny runs: killed, stopped, failing, extended, reused."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from forge_process import ForgeProcess, environment
from sweep_place import SWEEP, SweepPlace

from llmforge.insight.metrics import metric_rows

ALONE = ("unshare", "--pid", "--fork", "--mount-proc")
"""Runs a command that sees no process but its own, as another container or machine does."""
APART = shutil.which("unshare") and not subprocess.run([*ALONE, "true"], check=False).returncode

pytestmark = pytest.mark.timeout(900)

KEPT = ("number", "repeat", "state", "value", "run", "steps", "parameters")
"""What a sweep that was disturbed has in common with one that was not."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepPlace:
    """A sweep that nothing disturbed; not to be changed."""
    place = SweepPlace(tmp_path_factory.mktemp("undisturbed") / "place")
    place.sweep()
    return place


def kept(place: SweepPlace) -> list[dict[str, Any]]:
    """Return what must not depend on kills."""
    return [{key: trial[key] for key in KEPT} for trial in place.trials()]


def assert_same(place: SweepPlace, wanted: SweepPlace) -> None:
    """Check that trials and their metrics are those of another sweep, bit for bit."""
    assert kept(place) == kept(wanted)
    for own, other in zip(place.trials(), wanted.trials(), strict=True):
        metrics = [
            it.run_of(trial).metrics.read_bytes() for it, trial in ((place, own), (wanted, other))
        ]
        assert metrics[0] == metrics[1]


def training(process: ForgeProcess) -> bool:
    """A trial of the sweep has taken its first steps."""
    runs = process.workplace.path / "runs"
    return any(path.stat().st_size for path in runs.glob("tune_*/metrics.jsonl"))


def test_a_sweep_tries_prunes_and_leaves_the_best_recipe(undisturbed: SweepPlace) -> None:
    trials = undisturbed.trials()
    assert [trial["state"] for trial in trials] == ["completed", "pruned", "pruned", "pruned"]
    assert trials[0]["run"].startswith("tune_8_32_3e-03-")
    assert all("rung" in trial["reason"] for trial in trials[1:])
    text = (undisturbed.directory / "best.toml").read_text(encoding="utf-8")
    assert trials[0]["run"] in text
    assert "[sweep]" not in text
    best = str(undisturbed.directory / "best.toml")
    assert "ready to train" in undisturbed.forge_here("train", best, "--dry-run")


def test_a_pruned_trial_goes_on_from_its_checkpoint_once_others_are_worse(
    undisturbed: SweepPlace,
) -> None:
    _, promoted, *stopped = undisturbed.trials()
    assert (promoted["attempts"], promoted["steps"]) == (2, 20)
    assert [(trial["attempts"], trial["steps"]) for trial in stopped] == [(1, 10), (1, 10)]
    rows = metric_rows(undisturbed.run_of(promoted).metrics)
    assert [row["step"] for row in rows if "val/loss" in row] == [5, 10, 15, 20]
    for trial in (promoted, *stopped):
        checkpoints = undisturbed.run_of(trial).checkpoints.glob("step-*")
        assert max(path.name for path in checkpoints) == f"step-{trial['steps']:08}"


def test_trackers_and_callbacks_are_told_of_the_trial(undisturbed: SweepPlace) -> None:
    told = []
    for trial in undisturbed.trials():
        journal = undisturbed.run_of(trial).journal.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in journal]
        started = next(event for event in events if event["hook"] == "forge_run_start")
        assert started["facts"]["sweep"] == "s"
        first = next(event for event in events if event["hook"] == "forge_trial_start")
        assert first["parameters"] == trial["parameters"]
        told += [event for event in events if event["hook"] == "forge_trial_end"]
        assert events[-1]["hook"] == "forge_run_end"
        assert events[-2]["hook"] == "forge_trial_end"
    states = ["completed", *["pruned"] * 4]  # the promoted one ended twice
    assert [event["state"] for event in told] == states
    assert told[0]["value"] == undisturbed.trials()[0]["value"]


def test_the_same_command_again_says_that_it_is_done(undisturbed: SweepPlace) -> None:
    before = kept(undisturbed)
    assert "all 4 trials are done" in undisturbed.sweep()
    assert kept(undisturbed) == before


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.timeout(1800))])
def test_controller_worker_or_trial_killed_at_any_instant_changes_nothing(
    tmp_path: Path, undisturbed: SweepPlace, kills: int
) -> None:
    place = SweepPlace(tmp_path / "place")
    draw = random.Random(kills)
    victims = itertools.cycle(("controller", "worker", "trial", "controller", "trial"))
    for victim in itertools.islice(victims, kills):
        process = place.begin()
        if not process.wait_for(training):
            break
        time.sleep(draw.uniform(0, 2))
        family = [psutil.Process(process.process.pid)]
        family += family[0].children(recursive=True)
        wanted = {"controller": 0, "worker": 1, "trial": 2}[victim]
        if wanted >= len(family):
            process.kill()
            continue
        chosen = family[wanted]
        os.kill(chosen.pid, signal.SIGKILL)
        if victim == "controller":
            process.process.wait()
            continue
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(timeout=60)
    place.sweep()
    assert {trial["state"] for trial in place.trials()} <= {"completed", "pruned"}
    for own, other in zip(place.trials(), undisturbed.trials(), strict=True):
        assert own["parameters"] == other["parameters"]
        rows = place.run_of(own).metrics.read_bytes()
        wanted_rows = undisturbed.run_of(other).metrics.read_bytes()
        assert rows.startswith(wanted_rows) or wanted_rows.startswith(rows)


@pytest.mark.slow
def test_a_trial_that_is_killed_is_tried_again_and_fails_the_fifth_time(tmp_path: Path) -> None:
    place = SweepPlace(tmp_path / "place")
    process = place.begin("--max-trials", "1")
    controller = psutil.Process(process.process.pid)
    killed: set[int] = set()
    while process.process.poll() is None:
        for child in controller.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid not in killed and "llmforge.sweeps.trial_process" in child.cmdline():
                    killed.add(child.pid)
                    child.kill()
        time.sleep(0.05)
    (trial,) = place.trials()
    assert (trial["state"], trial["attempts"], len(killed)) == ("failed", 5, 5)
    assert "killed by SIGKILL" in trial["reason"]


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_saves_and_goes_on_exactly(
    tmp_path: Path, undisturbed: SweepPlace
) -> None:
    place = SweepPlace(tmp_path / "place")
    process = place.begin()
    assert process.wait_for(training)
    process.process.send_signal(signal.SIGTERM)
    assert "the same command resumes from here" in process.finish(expect=75, within=30).output
    assert place.trials()[-1]["state"] == "waiting"
    place.sweep()
    assert_same(place, undisturbed)


@pytest.mark.slow
def test_two_workers_do_every_trial_once(tmp_path: Path, undisturbed: SweepPlace) -> None:
    place = SweepPlace(tmp_path / "place")
    place.sweep("--workers", "2", "--set", 'sweep.grid.pruner="none"')
    trials = place.trials()
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert {trial["state"] for trial in trials} == {"completed"}
    assert len({trial["run"] for trial in trials}) == 4
    assert trials[0]["value"] == undisturbed.trials()[0]["value"]


@pytest.mark.slow
@pytest.mark.skipif(not APART, reason="needs the right to make a process namespace")
def test_a_trial_of_a_machine_that_died_is_taken_over_when_its_lease_ends(
    tmp_path: Path, undisturbed: SweepPlace
) -> None:
    """The other machine is a process namespace: its processes cannot be seen from here."""
    place = SweepPlace(tmp_path / "place", {"sweep.lease_seconds": "5"})
    arguments = [sys.executable, "-m", "llmforge", "sweep", "recipe.toml"]
    other = subprocess.Popen(
        [*ALONE, *arguments, "--set", "sweep.lease_seconds=5"],
        cwd=place.path,
        env=environment(place),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while not list(place.path.glob("runs/tune_*/metrics.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.1)
    for process in [psutil.Process(other.pid), *psutil.Process(other.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    other.wait()
    assert [trial["state"] for trial in place.trials()] == ["running"]
    place.sweep()  # it begins other trials until the lease is over
    trials = place.trials()
    assert trials[0]["attempts"] == 2
    assert {trial["state"] for trial in trials} <= {"completed", "pruned"}
    first, wanted = trials[0], undisturbed.trials()[0]
    assert first["value"] == wanted["value"]
    assert (
        place.run_of(first).metrics.read_bytes() == undisturbed.run_of(wanted).metrics.read_bytes()
    )


@pytest.mark.slow
def test_a_run_that_forge_train_completed_is_reused(tmp_path: Path) -> None:
    place = SweepPlace(tmp_path / "place")
    place.train("--set", "train.batch_size=4")
    place.sweep("--max-trials", "2")
    first, second = place.trials()
    assert not first["reused"]
    assert second["reused"]
    assert not place.run_of(second).path.exists()
    assert second["value"] is not None


@pytest.mark.slow
def test_a_failing_trial_is_kept_with_its_reason_and_retried_when_asked(tmp_path: Path) -> None:
    space = SWEEP.replace("train.batch_size = {choice = [8, 4]}", "").replace(
        "optimizer.adamw.lr = {choice = [3e-3, 1e-5]}",
        'data.text.train = {choice = ["missing.txt", "train.txt"]}',
    )
    place = SweepPlace(tmp_path / "place", recipe=SweepPlace.recipe.replace(SWEEP, space))
    output = place.sweep()
    failed, fine = place.trials()
    assert (failed["state"], fine["state"]) == ("failed", "completed")
    assert "missing.txt" in failed["reason"]
    assert "missing.txt" in output
    (place.path / "missing.txt").write_bytes((place.path / "train.txt").read_bytes())
    output = place.forge("sweep", "retry", "s", "--failed").finish(expect=0).output
    assert "1 trials to run again" in output
    mended, untouched = place.trials()
    assert mended["state"] == "completed"
    assert (mended["attempts"], untouched["attempts"]) == (3, 1)


@pytest.mark.slow
def test_a_metric_that_never_appears_ends_the_sweep_at_its_first_trial(tmp_path: Path) -> None:
    place = SweepPlace(tmp_path / "place")
    output = place.sweep("--set", 'sweep.metric="train/los"', expect=1)
    assert "'train/los' never appears" in output
    assert "did you mean 'train/loss'?" in output
    assert len(place.trials()) == 1


def test_a_bad_space_is_told_before_the_first_trial(tmp_path: Path) -> None:
    place = SweepPlace(tmp_path / "place")
    output = place.sweep("--set", "sweep.space.train.batch_size.choice=[8, 0]", expect=2)
    assert "train.batch_size" in output
    assert not (place.path / "runs").exists()
