"""Metrics of answers and generation tests in real runs: killed, stopped, compared."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from forge_process import Workplace, logged
from test_instruct import workplace

TESTS = """\
{"name": "turn", "prompt": "Turn them round.", "checks": {"regex": "[a-z]", "max_length": 8}}
{"messages": [{"role": "user", "content": "river"}], "checks": {"contains": "no such word"}}
{"prompt": "stone"}
"""

SETTINGS = {
    "metric__names": '["chrf", "exact_match"]',
    "metric__rows": "4",
    "metric__max_new_tokens": "12",
    "early_stopping__metric": "val/chrf",
    "train__max_steps": "24",
    "optimizer__adamw__lr": "1.5e-2",
    "model__transformer__dropout": "0.0",
    "generation__tests": "tests.jsonl",
    "generation__tests_every": "6",
    "tracker__names": '["csv"]',
}


def measured(path: Path, **more: str) -> Workplace:
    """Return a place whose run measures answers and has tests."""
    found = workplace(path, **(SETTINGS | more))
    (path / "tests.jsonl").write_text(TESTS, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = measured(tmp_path_factory.mktemp("whole"))
    output = found.train_here()
    assert "1 of 2 tests with checks passed (50%)" in output
    return found


def test_each_evaluation_measures_answers_and_the_best_is_that_with_most(
    undisturbed: Workplace,
) -> None:
    rows = [row for row in undisturbed.rows if "val/loss" in row]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 24]
    scores = {row["step"]: row["val/chrf"] for row in rows}
    assert all(0 <= row["val/exact_match"] <= 1 for row in rows)
    best = undisturbed.record["metrics"]["best"]
    most = max(scores.values())
    assert most > 0
    assert (best["metric"], best["value"]) == ("val/chrf", most)
    assert best["step"] == min(step for step, score in scores.items() if score == most)
    assert min(scores.values()) < most  # where less was better, another one would be the best
    told = (undisturbed.run.trackers / "csv" / "metrics.csv").read_text()
    assert f"{rows[-1]['val/chrf']}" in told


def test_evaluate_measures_the_same_as_the_run(undisturbed: Workplace) -> None:
    output = undisturbed.forge_here("evaluate", "tiny@last", "--json")
    found = json.loads(output[output.index("{") :])
    assert found["val/chrf"] == undisturbed.rows[-1]["val/chrf"]
    kept = json.loads(undisturbed.run.evaluation.read_text())
    assert kept[-1]["val/exact_match"] == found["val/exact_match"]


def test_tests_are_reported_in_a_file_and_to_trackers(undisturbed: Workplace) -> None:
    report = json.loads(undisturbed.run.examples.read_text())
    assert (report["step"], report["success_rate"]) == (24, 0.5)
    turn, talk, stone = report["tests"]
    assert [item["name"] for item in report["tests"]] == ["turn", "2", "3"]
    assert turn["checks"] == {"regex": True, "max_length": True} and turn["passed"]
    assert talk["checks"] == {"contains": False} and talk["passed"] is False
    assert stone["checks"] == {} and stone["passed"] is None
    assert turn["tokens"] > 0 and turn["seconds"] > 0 and turn["tokens_per_second"] > 0
    assert {row["step"] for row in undisturbed_samples(undisturbed)} == {6, 12, 18, 24}
    table = (undisturbed.run.trackers / "csv" / "samples.csv").read_text()
    assert "repetition,test,passed,failed,seconds,tokens_per_second" in table
    assert '"type":"samples"' in undisturbed.run.journal.read_text()


def undisturbed_samples(found: Workplace) -> list[dict[str, object]]:
    """Return the rows of tests."""
    lines = found.run.samples.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "test" in row]


def test_a_killed_run_measures_and_tests_the_same(tmp_path: Path, undisturbed: Workplace) -> None:
    killed = measured(tmp_path)
    process = killed.start()
    assert process.wait_for(lambda _: any(c.name >= "step-00000009" for c in killed.checkpoints))
    process.kill()
    assert "resuming from step" in killed.train_here()
    assert killed.result() == undisturbed.result()


def test_a_signal_while_answering_is_obeyed_and_the_boundary_done_again(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    # With so many tokens at a time that answering takes long; the number is safe to change.
    stopped = measured(tmp_path, metric__max_new_tokens="20000")
    process = stopped.start()
    assert process.wait_for(logged("answering at step 5"))
    process.process.send_signal(signal.SIGTERM)
    process.finish(expect=75, within=20)
    assert [path.name for path in stopped.checkpoints][-1] == "step-00000005"
    assert not any("val/loss" in row for row in stopped.rows)
    output = stopped.train_here("--set", "metric.max_new_tokens=12")
    assert "resuming from step 5" in output
    assert stopped.result() == undisturbed.result()


def test_two_checkpoints_are_compared_side_by_side(undisturbed: Workplace) -> None:
    compare = ("generate", "--compare", "tiny@last", "tiny@best", "--greedy")
    output = undisturbed.forge_here(*compare, "--tests", "tests.jsonl")
    assert "test turn: Turn them round." in output
    assert output.count("repetition") == 2 * 3 + 1
    output = undisturbed.forge_here(*compare, "--json")  # the tests of the recipe
    found = json.loads(output[output.index("{") :])["runs"]
    assert found[0]["step"] == 24
    assert [len(item["tests"]) for item in found] == [3, 3]
    output = undisturbed.forge_here("generate", "tiny", "--tests", "tests.jsonl")
    assert "tests with checks passed" in output


def test_broken_tests_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    found = measured(tmp_path)
    (tmp_path / "tests.jsonl").write_text('{"prompt": "x"}\n{"promt": "y"}\n', encoding="utf-8")
    output = found.train_here(expect=2)
    assert "tests.jsonl:2: promt: unknown key (did you mean 'prompt'?)" in output
    assert not found.run.metrics.exists()
