"""Which hooks a run calls, when, where and with what, written down by a plugin in real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
extends = "wikitext_tiny"

[run]
id = "watched"

[model.transformer]
layers = 1
width = 16
heads = 2
context = 16

[tokenizer]
name = "bytes"

[train]
max_steps = 12
batch_size = 4
log_every = 2
histograms_every = 4
system_every = 0
precision = "fp32"
compile = false

[eval]
every = 4

[checkpoint]
every = 4

[early_stopping]
patience = 0

[tracker]
names = ["recorder"]

[callback]
names = ["observer"]

[generation]
prompts = ["The"]

[generation.sampler]
max_new_tokens = 4
"""


@dataclass(frozen=True)
class Start:
    """One start of the run: what the hooks were told, and how the command ended."""

    record: list[dict[str, Any]]
    output: str
    code: int

    def hooks(self, who: str) -> list[str]:
        """Return the hooks ``who`` saw, in order."""
        return [line["hook"] for line in self.record if line["who"] == who]

    def calls(self, hook: str, who: str = "callback") -> list[dict[str, Any]]:
        """Return what ``who`` was given by each call of ``hook``."""
        return [line for line in self.record if (line["who"], line["hook"]) == (who, hook)]


def start(directory: Path, record: str, *arguments: str, **settings: str) -> Start:
    """Run ``forge train`` in ``directory`` with the recording plugin installed."""
    path = directory / record
    path.touch()
    plugin = str(Path(__file__).parent / "hook_recorder")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")])),
        "FORGE_OFFLINE": "1",
        "HOOK_RECORD": str(path),
        **settings,
    }
    environment.pop("FORGE_PLUGINS", None)
    (directory / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "train", "recipe.toml", *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    return Start([json.loads(line) for line in lines], done.stdout + done.stderr, done.returncode)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the watched run lives."""
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def first(directory: Path) -> Start:
    """The first start, up to step 6 of 12."""
    started = start(directory, "first.jsonl", "--set", "train.stop_at=6")
    assert started.code == 0, started.output
    return started


@pytest.fixture(scope="module")
def resumed(directory: Path, first: Start) -> Start:
    """The second start, which the callback stops at step 10."""
    assert first.code == 0
    ended = start(directory, "resumed.jsonl", HOOK_STOP_AT="10")
    assert ended.code == 0, ended.output
    return ended


def test_every_part_is_built_once_from_data_to_optimizer(first: Start) -> None:
    factories = [hook for hook in first.hooks("callback") if hook.startswith("forge_build_")]
    training = [hook for hook in factories if hook != "forge_build_generator"]
    assert training[:2] == ["forge_build_data", "forge_build_tokenizer"]
    assert sorted(training[2:]) == [
        "forge_build_backend",
        "forge_build_model",
        "forge_build_optimizer",
        "forge_build_schedule",
    ]
    assert first.calls("forge_load_tokenizer") == []


def test_factories_are_given_what_was_built_before(first: Start) -> None:
    (tokenizer,) = first.calls("forge_build_tokenizer")
    assert {"train", "validation"} <= set(tokenizer["data"])
    (model,) = first.calls("forge_build_model")
    assert model["vocab_size"] == 257
    (optimizer,) = first.calls("forge_build_optimizer")
    assert optimizer["parameters"]
    assert {line["run"] for line in first.record if "run" in line} == {"watched"}


def test_a_resumed_run_reads_its_tokenizer_back_instead_of_making_it_again(
    resumed: Start,
) -> None:
    (loaded,) = resumed.calls("forge_load_tokenizer")
    assert Path(loaded["directory"]).name == "tokenizer"
    assert resumed.calls("forge_build_tokenizer") == []


def test_a_generator_is_built_over_a_model_in_evaluation_mode(resumed: Start) -> None:
    built = resumed.calls("forge_build_generator")
    assert built
    assert not any(line["training"] for line in built)


@pytest.mark.parametrize("who", ["callback", "tracker"])
def test_the_start_comes_first_and_the_end_last(first: Start, resumed: Start, who: str) -> None:
    for started in (first, resumed):
        told = [line["hook"] for line in started.record if line["who"] == who and "event" in line]
        assert (told[0], told[-1]) == ("forge_run_start", "forge_run_end")
        assert told.count("forge_run_start") == told.count("forge_run_end") == 1


@pytest.mark.parametrize("who", ["callback", "tracker"])
def test_a_resumed_run_says_where_it_goes_on_and_how_it_ended(resumed: Start, who: str) -> None:
    (started,) = resumed.calls("forge_run_start", who)
    assert (started["event"]["resumed_from"], started["event"]["restart"]) == (6, 2)
    (ended,) = resumed.calls("forge_run_end", who)
    assert ended["event"]["state"] == "early-stopped"
    assert "seen enough" in ended["event"]["reason"]


@pytest.mark.parametrize("who", ["callback", "tracker"])
def test_metrics_evaluations_and_checkpoints_are_told_at_their_steps(
    first: Start, resumed: Start, who: str
) -> None:
    def steps(hook: str) -> list[int]:
        lines = first.calls(hook, who) + resumed.calls(hook, who)
        return sorted({line["event"]["step"] for line in lines})

    assert {2, 4, 6, 8, 10} <= set(steps("forge_metrics"))
    assert {4, 8} <= set(steps("forge_eval_end"))
    assert {4, 6, 8, 10} <= set(steps("forge_checkpoint_saved"))
    for line in first.calls("forge_eval_end", who):
        assert line["event"]["values"]["val/loss"] > 0


@pytest.mark.parametrize("who", ["callback", "tracker"])
def test_histograms_are_told_at_their_interval(first: Start, resumed: Start, who: str) -> None:
    told = first.calls("forge_histograms", who) + resumed.calls("forge_histograms", who)
    assert [line["event"]["step"] for line in told] == [4, 8]
    for line in told:
        values = line["event"]["values"]
        assert {"weights/embedding.weight", "gradients/embedding.weight"} <= set(values)
        for histogram in values.values():
            assert len(histogram["edges"]) == len(histogram["counts"]) + 1
            assert sum(histogram["counts"]) > 0


@pytest.mark.parametrize("who", ["callback", "tracker"])
def test_samples_and_artifacts_are_told_with_files_that_exist(
    directory: Path, resumed: Start, who: str
) -> None:
    (samples,) = resumed.calls("forge_samples", who)
    assert samples["event"]["samples"][0]["prompt"] == "The"
    written = [line["event"] for line in resumed.calls("forge_artifact", who)]
    assert {"recipe", "plot"} <= {event["type"] for event in written}
    for event in written:
        assert (directory / "runs" / "watched" / event["path"]).is_file()


def test_a_tracker_lives_in_another_process_than_the_training(first: Start) -> None:
    training = {line["process"] for line in first.record if line["who"] == "callback"}
    courier = {line["process"] for line in first.record if line["who"] == "tracker"}
    assert len(training) == len(courier) == 1
    assert training != courier


def test_a_tracker_is_told_all_that_a_callback_is_told_and_nothing_twice(
    first: Start, resumed: Start
) -> None:
    def events(started: Start, who: str) -> list[dict[str, Any]]:
        return [line["event"] for line in started.record if line["who"] == who and "event" in line]

    assert events(first, "tracker") == events(first, "callback")
    known = {(event["hook"], event.get("step")) for event in events(first, "tracker")}
    assert events(resumed, "tracker") == [
        event
        for event in events(resumed, "callback")
        if event["hook"] != "forge_metrics" or (event["hook"], event["step"]) not in known
    ]


def test_both_are_asked_before_the_run_starts(first: Start) -> None:
    for who in ("callback", "tracker"):
        hooks = first.hooks(who)
        assert hooks.count("forge_preflight") == 1
        assert hooks.index("forge_preflight") < hooks.index("forge_run_start")


def test_a_problem_found_by_preflight_ends_it_before_step_0(tmp_path: Path) -> None:
    refused = start(tmp_path, "refused.jsonl", HOOK_PROBLEM="1")
    assert refused.code == 2
    assert "the callback objects" in refused.output
    assert refused.calls("forge_preflight")
    assert refused.calls("forge_run_start") == []


def test_extra_metrics_are_asked_for_when_logging_and_become_metrics(
    directory: Path, first: Start, resumed: Start
) -> None:
    asked = [line["step"] for line in first.calls("forge_extra_metrics")]
    assert {2, 4, 6} <= set(asked)
    rows = (directory / "runs" / "watched" / "metrics.jsonl").read_text(encoding="utf-8")
    values = [json.loads(row).get("observer/asked") for row in rows.splitlines()]
    assert [value for value in values if value is not None][-1] >= 5
    assert resumed.code == 0


def test_a_callbacks_state_goes_through_the_checkpoint(first: Start, resumed: Start) -> None:
    assert first.calls("forge_checkpoint_state")
    asked = len(first.calls("forge_extra_metrics"))
    (restored,) = resumed.calls("restore_state")
    assert restored["state"] == {"asked": asked}


def test_a_callback_can_stop_the_run(resumed: Start) -> None:
    asked = resumed.calls("forge_stop_reason")
    assert asked[-1]["step"] == 10
    assert "seen enough" in resumed.output


def test_an_upload_is_told_to_callbacks_and_trackers_with_its_address(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/storage"
    mirrored = start(
        *(tmp_path, "uploaded.jsonl"),
        *("--set", "train.stop_at=4", "--set", f'storage.url="{url}"'),
    )
    assert mirrored.code == 0, mirrored.output
    for who in ("callback", "tracker"):
        (told,) = mirrored.calls("forge_checkpoint_uploaded", who)
        place = f"{url}/watched/attempt-00001/checkpoints/step-00000004"
        assert (told["event"]["step"], told["event"]["url"]) == (4, place)


def test_an_error_is_told_before_the_end(tmp_path: Path) -> None:
    failed = start(tmp_path, "failed.jsonl", HOOK_FAIL_AT="4")
    assert failed.code == 1
    for who in ("callback", "tracker"):
        (error,) = failed.calls("forge_run_error", who)
        assert "the observer fell over" in error["event"]["message"]
        told = [line["hook"] for line in failed.record if line["who"] == who and "event" in line]
        assert told[-2:] == ["forge_run_error", "forge_run_end"]
        assert failed.calls("forge_run_end", who)[0]["event"]["state"] == "failed"
