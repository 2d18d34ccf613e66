"""Runs and roots that the user may not read or write: one message each, and never a traceback."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from permissions import forbidden
from run_parts import complete, make_run, write_rows

from llmforge.cli.app import main
from llmforge.cli.refused_files import as_refusal
from llmforge.rundir import find_run, list_runs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a completed run ``x`` and another one."""
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path))
    monkeypatch.delenv("FORGE_DEBUG", raising=False)
    for name in ("x", "y"):
        directory = make_run(tmp_path, name)
        complete(directory)
        write_rows(directory.metrics, [{"step": 1, "train/loss": 3.0}])
    return tmp_path


def forge(
    *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line as a process does; a traceback would raise here."""
    monkeypatch.setattr(sys, "argv", ["forge", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "show", "x"),
        ("runs", "verify", "x"),
        ("runs", "metrics", "x"),
        ("runs", "plot", "x"),
        ("runs", "delete", "x", "--yes"),
        ("checkpoints", "list", "x"),
        ("checkpoints", "show", "x"),
        ("monitor", "x", "--once"),
    ],
)
def test_a_run_that_may_not_be_read_is_named_without_a_traceback(
    command: tuple[str, ...],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with forbidden(root / "x"):
        code, _, err = forge(*command, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert str(root / "x") in err
    assert "Permission denied" in err
    assert err.startswith("forge: ")
    assert (root / "x" / "run.json").exists()


def test_one_run_that_may_not_be_read_hides_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with forbidden(root / "x"):
        states = {entry.directory.id: entry.state for entry in list_runs(root)}
        code, out, _ = forge("runs", "list", monkeypatch=monkeypatch, capsys=capsys)
    assert states == {"x": "unreadable", "y": "completed"}
    assert (code, [line.split()[:2] for line in out.splitlines()[1:]]) == (
        0,
        [["y", "completed"], ["x", "unreadable"]],
    )


def test_a_root_that_may_not_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with forbidden(root):
        code, _, err = forge("runs", "show", "x", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert err.startswith(f"forge: {root} cannot be read: Permission denied\n")


def test_metrics_that_may_not_be_read_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = root / "x" / "metrics.jsonl"
    with forbidden(metrics):
        _, _, shown = forge("runs", "metrics", "x", monkeypatch=monkeypatch, capsys=capsys)
        _, verified, _ = forge("runs", "verify", "x", monkeypatch=monkeypatch, capsys=capsys)
    assert shown.startswith(f"forge: {metrics}: Permission denied\n")
    assert "metrics.jsonl cannot be read: Permission denied" in verified


def test_a_name_no_file_system_takes_is_no_run(root: Path) -> None:
    with pytest.raises(Exception, match="no run 'aaaa"):
        find_run(root, "a" * 300)


def test_a_defect_keeps_its_traceback() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "x")
    assert as_refusal(missing) is None
    assert as_refusal(OSError(errno.ENOSPC, "No space left on device")) is None  # of which file?
    full = as_refusal(OSError(errno.ENOSPC, "No space left on device", "/disk/x"))
    assert full is not None
    assert full.message == "/disk/x: No space left on device"
    assert full.remedy == "free some space, or choose another disk"
