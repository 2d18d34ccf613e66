"""Rows of values: cut back exactly, whole or absent, thinned for a checkpoint's metadata."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmforge.run.reporting.metrics_files import LossHistory, RowFile, cut_rows, read_rows


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def row(step: int) -> str:
    return json.dumps({"step": step, "x": 0.1}) + "\n"


@pytest.mark.parametrize(
    ("from_step", "kept"), [(0, []), (3, []), (4, [3]), (5, [3]), (6, [3, 5]), (99, [3, 5, 7])]
)
def test_rows_from_a_step_on_are_cut(tmp_path: Path, from_step: int, kept: list[int]) -> None:
    path = write(tmp_path / "rows", row(3) + row(5) + row(7))
    cut_rows(path, from_step=from_step)
    assert path.read_text() == "".join(map(row, kept))


def test_a_torn_last_line_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", row(3) + row(5)[:-4])
    assert [item["step"] for item in read_rows(path)] == [3]
    cut_rows(path, from_step=99)
    assert path.read_text() == row(3)


def test_a_missing_file_has_no_rows_and_stays_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    cut_rows(path, from_step=1)
    assert list(read_rows(path)) == []
    assert not path.exists()


def test_a_row_reads_back_bit_for_bit(tmp_path: Path) -> None:
    values = {"step": 1, "loss": 0.1 + 0.2, "tiny": 5e-324, "text": "größer"}
    file = RowFile(tmp_path / "rows")
    file.append(values)
    file.sync()
    file.close()
    assert list(read_rows(tmp_path / "rows")) == [values]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Files may grow to 100 bytes; only around the call, since pytest writes files too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_row_that_finds_no_room_leaves_nothing_of_itself(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows")
    file.append({"step": 1, "text": "x" * 40})
    with small_files(), pytest.raises(OSError, match="too large"):
        file.append({"step": 2, "text": "x" * 40})
    file.append({"step": 3})
    file.close()
    assert [item["step"] for item in read_rows(tmp_path / "rows")] == [1, 3]


def test_history_keeps_the_newest_of_at_most_two_hundred_points() -> None:
    history = LossHistory()
    for step in range(1, 1002):
        history.add({"step": step, "train/loss": 1.0 / step, "lr": 0.5})
    history.add({"step": 1002, "val/loss": 3.0})
    points = history.points()
    assert 100 <= len(points["step"]) <= 200
    assert points["step"][-1] == 1001
    assert points["train/loss"][-1] == 1.0 / 1001
    gaps = {b - a for a, b in zip(points["step"], points["step"][1:], strict=False)}
    assert len(gaps) == 1


def test_a_short_history_is_complete() -> None:
    history = LossHistory()
    assert history.points() == {"step": [], "train/loss": [], "lr": []}
    for step in (2, 4):
        history.add({"step": step, "train/loss": 1.0, "lr": 0.5})
    assert history.points()["step"] == [2, 4]
