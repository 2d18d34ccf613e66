"""Files of metric rows are read as they grow, whatever happens to them in between."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmforge.rundir import RunDirectory
from llmforge.ui.curves import Curves
from llmforge.ui.metric_files import MetricFile, MetricFiles


def rows(*steps: int, value: float = 1.0) -> bytes:
    """Return lines of a metric file."""
    return b"".join(
        json.dumps({"step": step, "loss": value, "note": "x"}).encode() + b"\n" for step in steps
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a metric file may be."""
    return tmp_path / "metrics.jsonl"


def steps(file: MetricFile) -> list[float]:
    """Return the steps that are known now."""
    file.refresh()
    return list(file.columns["loss"].steps) if "loss" in file.columns else []


def test_only_what_was_appended_is_read(path: Path) -> None:
    path.write_bytes(rows(1, 2))
    file = MetricFile(path)
    assert steps(file) == [1, 2]
    first = file.columns["loss"]
    with path.open("ab") as stream:
        stream.write(rows(3))
    assert steps(file) == [1, 2, 3]
    assert file.columns["loss"] is first and file.generation == 0


def test_a_line_that_is_being_written_waits_until_it_is_whole(path: Path) -> None:
    whole = rows(1, 2)
    path.write_bytes(whole[:-5])
    file = MetricFile(path)
    assert steps(file) == [1]
    path.write_bytes(whole)
    assert steps(file) == [1, 2]


def test_a_file_cut_back_and_regrown_beyond_its_old_size_is_read_again(path: Path) -> None:
    path.write_bytes(rows(1, 2, 3))
    file = MetricFile(path)
    assert steps(file) == [1, 2, 3]
    kept = path.read_bytes()[: len(rows(1))]
    with path.open("r+b") as stream:  # the same inode, as a resume cuts it
        stream.truncate(len(kept))
        stream.seek(len(kept))
        stream.write(rows(2, 3, 4, 5, value=2.0))
    assert steps(file) == [1, 2, 3, 4, 5]
    assert list(file.columns["loss"].values) == [1, 2, 2, 2, 2]
    assert file.generation == 1


def test_a_file_that_is_replaced_or_gone_is_noticed(path: Path) -> None:
    path.write_bytes(rows(1, 2))
    file = MetricFile(path)
    assert steps(file) == [1, 2]
    other = path.with_name("other")
    other.write_bytes(rows(1, 2, 7))
    other.replace(path)
    assert steps(file) == [1, 2, 7]
    path.unlink()
    assert steps(file) == []
    assert file.generation == 2


def test_damaged_lines_are_counted_and_the_others_kept(path: Path) -> None:
    path.write_bytes(rows(1) + b"{broken\n[3]\n" + rows(2) + b'{"step": true, "loss": 3}\n')
    file = MetricFile(path)
    assert steps(file) == [1, 2]
    assert file.damaged == 2


def test_memory_is_bounded_by_dropping_the_file_longest_unused(tmp_path: Path) -> None:
    files = MetricFiles(most_values=10)
    opened = []
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(rows(1, 2))
        opened.append(files.open(tmp_path / name))
    assert files.open(tmp_path / "c") is opened[2]
    assert files.open(tmp_path / "a") is not opened[0]


def test_curves_tell_tokens_and_time_leave_nan_out_and_say_so(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    metrics = [
        {"step": 10, "tokens_seen": 100, "train/loss": 3.0},
        {"step": 20, "tokens_seen": 200, "train/loss": math.nan},
        {"step": 30, "tokens_seen": 300, "train/loss": 2.0},
    ]
    timing = [{"step": step, "seconds": 5.0, "tokens_per_second": 20.0} for step in (10, 20, 30)]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in metrics))
    directory.timing.write_text("".join(json.dumps(row) + "\n" for row in timing))
    curves = Curves(MetricFiles())
    assert curves.names(directory) == ["train/loss", "tokens_per_second"]
    series = curves.read(directory, points=100)["series"]
    assert series["train/loss"] == {
        "step": [10, 30],
        "tokens": [100, 300],
        "time": [5.0, 15.0],
        "value": [3.0, 2.0],
        "not_finite": {"count": 1, "first": 20.0},
    }
    assert series["tokens_per_second"]["tokens"] == [100, 200, 300]
    assert curves.read(directory, points=100)["metrics"] == ["train/loss", "tokens_per_second"]
    for axis, others in (("step", set()), ("tokens", {"tokens"}), ("time", {"time"})):
        found = curves.read(directory, points=100, along=axis)["series"]["tokens_per_second"]
        assert set(found) == {"step", "value"} | others
    part = curves.read(directory, points=100, begin=25, end=99)["series"]["train/loss"]
    assert part["step"] == [30]


def test_a_long_curve_is_thinned_and_its_peak_stays(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    lines = [{"step": step, "train/loss": 9.0 if step == 777 else 1.0} for step in range(5000)]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in lines))
    found = Curves(MetricFiles()).read(directory, points=50)["series"]["train/loss"]
    assert len(found["step"]) <= 50 and found["of"] == 5000
    assert found["step"][found["value"].index(9.0)] == 777
    assert len(found["mean"]) == len(found["value"])


def test_values_are_sent_with_as_many_digits_as_can_be_seen(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    values = [math.pi, -math.pi * 1e-9, math.pi * 1e15, 0.0, 1e-310, 1.7976931348623157e308]
    rows = [{"step": step, "odd": value} for step, value in enumerate(values)]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Curves(MetricFiles()).read(directory, points=50)["series"]["odd"]["value"]
    assert found[0] == 3.141593
    assert found == pytest.approx(values, rel=5e-7, abs=0)


def test_several_runs_are_read_by_several_threads(tmp_path: Path) -> None:
    directories = [RunDirectory(tmp_path / f"run{number}") for number in range(6)]
    for number, directory in enumerate(directories):
        directory.path.mkdir()
        lines = [json.dumps({"step": step, "loss": number}) for step in range(5000)]
        directory.metrics.write_text("\n".join(lines) + "\n")
    curves = Curves(MetricFiles(most_values=25_000))  # of which some are dropped meanwhile

    def read(place: int) -> list[float]:
        found = curves.read(directories[place % 6], points=4)["series"]["loss"]
        return [place % 6, *found["value"], found["of"]]

    with ThreadPoolExecutor(4) as pool:
        for place, *values, count in pool.map(read, range(60)):
            assert set(values) == {place} and count == 5000


def test_many_rows_read_at_once_are_those_read_one_by_one(path: Path) -> None:
    lines = []
    for step in range(4000):
        row: dict[str, object] = {"step": step, "loss": math.nan if step % 9 == 0 else step / 7}
        if step % 5 == 0:
            row |= {"val": step, "text": "x", "flag": True, "nested": {"a": 1}}
        lines.append(json.dumps(row).encode() + b"\n")
    path.write_bytes(b"".join(lines))
    at_once = MetricFile(path)
    at_once.refresh()
    one_by_one = MetricFile(path.with_name("grown"))
    for line in lines[:40]:
        with path.with_name("grown").open("ab") as stream:
            stream.write(line)
        one_by_one.refresh()
    assert set(at_once.columns) == set(one_by_one.columns) == {"step", "loss", "val"}
    for name, column in one_by_one.columns.items():
        count = len(column.steps)
        assert at_once.columns[name].steps[:count] == column.steps
        assert repr(at_once.columns[name].values[:count]) == repr(column.values)
    assert len(at_once.columns["val"].values) == 800


@pytest.mark.parametrize("odd", [b'{"step": 5, "loss": "text"}', b"[]", b'{"loss": 1}', b"{"])
def test_one_odd_row_among_many_costs_only_itself(path: Path, odd: bytes) -> None:
    path.write_bytes(rows(*range(4000)) + odd + b"\n" + rows(4001))
    file = MetricFile(path)
    assert steps(file) == [*range(4000), 4001]
