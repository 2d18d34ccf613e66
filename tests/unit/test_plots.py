"""Curves of a run as PNG files."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from run_parts import make_run, training_rows, write_rows

from llmforge.errors import RunError
from llmforge.insight.plots import points, smoothed, write_curves

ALL = ["loss.png", "perplexity.png", "learning_rate.png"]


def draw(root: Path, rows: list[dict[str, Any]], *, run_id: str = "run") -> list[Path]:
    directory = make_run(root, run_id)
    write_rows(directory.metrics, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return write_curves(directory)


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_run_gets_its_three_curves(tmp_path: Path) -> None:
    written = draw(tmp_path, training_rows())
    assert [path.relative_to(tmp_path / "run") for path in written] == [
        Path("plots") / name for name in ALL
    ]
    assert {size(path) for path in written} == {(1080, 630)}
    assert sorted(path.name for path in (tmp_path / "run" / "plots").iterdir()) == sorted(ALL)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        pytest.param([], [], id="none"),
        pytest.param(training_rows(10), ALL, id="one"),
        pytest.param(training_rows(20, eval_every=1000), ALL, id="training only"),
        pytest.param([{"step": 5, "epoch": 1, "val/loss": 3.0}], ALL[:2], id="validation only"),
        pytest.param([{"step": 5, "train/loss": math.nan, "lr": math.inf}], [], id="not finite"),
        pytest.param(
            [{"step": 5, "train/loss": 1e4, "lr": 0.0}, {"step": 6, "train/loss": 9e3, "lr": 0.0}],
            ["loss.png", "learning_rate.png"],
            id="diverged",
        ),
        pytest.param(training_rows(5000), ALL, id="many"),
    ],
)
def test_any_number_of_rows_is_drawn(
    tmp_path: Path, rows: list[dict[str, Any]], names: list[str]
) -> None:
    assert [path.name for path in draw(tmp_path, rows)] == names


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    rows = [{"step": 1, "x": math.nan}, {"step": 2, "x": 3.0}, {"step": 3}, {"step": 4, "x": "a"}]
    assert points(rows, "x") == ([2], [3.0])
    clean = draw(tmp_path, training_rows(50), run_id="a" * 5)
    broken = [*training_rows(50), {"step": 51, "train/loss": math.nan, "lr": math.nan}]
    assert [path.read_bytes() for path in draw(tmp_path / "b", broken, run_id="a" * 5)] == [
        path.read_bytes() for path in clean
    ]


def test_the_pictures_show_the_values(tmp_path: Path) -> None:
    rows = training_rows(100)
    other = [row | {"train/loss": row["train/loss"] + 1} for row in rows]
    loss, perplexity, rate = (path.read_bytes() for path in draw(tmp_path / "a", rows))
    changed = [path.read_bytes() for path in draw(tmp_path / "b", other)]
    assert loss != changed[0]
    assert perplexity != changed[1]
    assert rate == changed[2]


def test_a_file_is_replaced_without_rubbish_beside_it(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run")
    for steps in (50, 100):
        write_rows(directory.metrics, training_rows(steps))
        write_curves(directory)
    assert sorted(path.name for path in directory.plots.iterdir()) == sorted(ALL)


def test_damaged_metrics_are_an_error_with_the_file(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run")
    directory.metrics.write_text("rubbish\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        write_curves(directory)


def test_smoothing_keeps_a_straight_line_and_damps_noise() -> None:
    line = [float(index) for index in range(50)]
    assert smoothed(line, reach=5)[:45] == pytest.approx(line[:45])
    noise = [(-1.0) ** index for index in range(50)]
    assert max(map(abs, smoothed(noise, reach=5)[10:])) < 0.2
    assert smoothed([2.0], reach=5) == [2.0]


def test_style_and_pyplot_of_the_process_stay_untouched(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run")
    write_rows(directory.metrics, training_rows(50))
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from pathlib import Path\n"
        "from llmforge.rundir import RunDirectory\n"
        "from llmforge.insight.plots import write_curves\n"
        f"assert len(write_curves(RunDirectory(Path({str(directory.path)!r})))) == 3\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
