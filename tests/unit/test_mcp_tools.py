"""What ``forge mcp`` tells assistants: what the commands know, thinned; nothing is changed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from run_parts import make_run, write_rows

from llmforge.cli.mcp_tools import RunTools
from llmforge.errors import RunError, UsageError


def files(root: Path) -> dict[str, int]:
    """Return the files of all runs; the index is a cache beside them."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
    }


@pytest.fixture
def tools(tmp_path: Path) -> RunTools:
    for number in range(3):
        run = make_run(tmp_path, f"run-{number}", started=1e9 + number)
        write_rows(
            run.metrics, [{"step": step, "train/loss": 9 - step / 100} for step in range(1, 501)]
        )
        (run.path / "log.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    return RunTools(tmp_path)


def test_runs_are_listed_by_an_expression_and_counted(tools: RunTools) -> None:
    found = tools.list_runs(limit=2, columns=["id", "state"])
    assert found["matching"] == 3
    assert [run["id"] for run in found["runs"]] == ["run-2", "run-1"]
    assert tools.list_runs(where="id == 'run-1'")["matching"] == 1
    with pytest.raises(UsageError, match="val/los"):
        tools.list_runs(where="val/los < 3")


def test_metrics_are_thinned_and_end_with_the_last_row(tools: RunTools) -> None:
    known = tools.read_metrics("run-0")
    assert known["names"] == ["step", "train/loss"]
    assert known["last"] == {"step": 500, "train/loss": 4.0}
    found = tools.read_metrics("run-0", ["train/loss"], points=10)
    assert found["rows"] == 500
    assert 10 <= len(found["shown"]) <= 11
    assert found["shown"][-1] == known["last"]
    with pytest.raises(UsageError, match="no metric 'loss'"):
        tools.read_metrics("run-0", ["loss"])


def test_a_log_is_read_from_its_end(tools: RunTools) -> None:
    assert tools.read_log("run-0", lines=2) == "two\nthree\n"


def test_a_run_is_found_by_its_beginning_or_said_to_be_missing(tools: RunTools) -> None:
    assert tools.show_run("run-2")["id"] == "run-2"
    with pytest.raises(RunError, match="no run 'nosuch'"):
        tools.show_run("nosuch")
    with pytest.raises(UsageError, match="matches 3 runs"):
        tools.read_log("run-")


@pytest.mark.parametrize("name", ["../run-0", "/etc", "wandb:me/project/run", "s3://bucket/run"])
def test_nothing_is_read_or_fetched_from_elsewhere(tools: RunTools, name: str) -> None:
    for tool in (tools.show_run, tools.read_log, tools.show_checkpoint):
        with pytest.raises(UsageError, match="no run here"):
            tool(name)


def test_answers_are_json_and_no_file_of_a_run_changes(tools: RunTools, tmp_path: Path) -> None:
    before = files(tmp_path)
    answers = [
        tools.list_runs(),
        tools.show_run("run-0"),
        tools.read_metrics("run-0"),
        tools.compare_runs("run-0", "run-1"),
        tools.list_checkpoints("run-0"),
        tools.read_samples("run-0"),
    ]
    assert json.dumps(answers, default=str)
    assert files(tmp_path) == before


def test_every_tool_says_what_it_is_for(tools: RunTools) -> None:
    assert all(inspect.getdoc(tool) for tool in tools.all())
