"""``forge runs plot``: curves read fast, thinned without losing a spike, drawn and saved."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from run_parts import make_run, write_rows
from typer.testing import CliRunner

from llmforge.cli.runs import app
from llmforge.errors import RunError
from llmforge.insight import metric_curves
from llmforge.insight.downsample import thinned
from llmforge.insight.metric_curves import read_curve, smooth
from llmforge.rundir import RunDirectory


def run_with_rows(root: Path, run_id: str, *, count: int = 50) -> RunDirectory:
    directory = make_run(root, run_id)
    rows = [
        {
            "step": step,
            "tokens_seen": step * 64,
            "train/loss": 5.0 - step / 100,
            **({"val/loss": 4.0 - step / 100} if step % 10 == 0 else {}),
        }
        for step in range(1, count + 1)
    ]
    write_rows(directory.metrics, rows)
    write_rows(directory.timing, [{"step": s, "time": 1e9 + 36 * s} for s in range(1, count + 1)])
    return directory


def test_thinning_keeps_ends_and_spikes() -> None:
    ys = [math.sin(place / 5000) for place in range(100_000)]
    ys[77_777], ys[1234] = 99.0, -99.0
    xs, kept = thinned((range(100_000), ys), most=200)
    assert len(xs) <= 200
    assert {0, 1234, 77_777, 99_999} <= set(xs)
    assert [ys[int(x)] for x in xs] == list(kept)
    assert list(xs) == sorted(xs)
    assert thinned(([1, 2], [3, 4]), most=4) == ([1, 2], [3, 4])


@pytest.mark.parametrize("block", [1 << 23, 300])
def test_a_metric_is_read_over_steps_tokens_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(metric_curves, "_BLOCK", block)
    directory = run_with_rows(tmp_path, "x")
    assert read_curve(directory, "val/loss")[0] == [10, 20, 30, 40, 50]
    assert read_curve(directory, "val/loss")[1][0] == pytest.approx(3.9)
    assert read_curve(directory, "train/loss", by="tokens")[0][:2] == [64, 128]
    assert read_curve(directory, "train/loss", by="time")[0][:3] == pytest.approx([0, 0.01, 0.02])
    assert read_curve(directory, "none") == ([], [])
    assert len(read_curve(directory, "train/loss")[0]) == 50


def test_values_that_are_not_finite_and_a_torn_line_are_left_out(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x")
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": math.nan}, {"step": 3, "a": 3.0}]
    write_rows(directory.metrics, rows)
    with directory.metrics.open("a") as file:
        file.write('{"step": 4, "a": 4')
    assert read_curve(directory, "a") == ([1, 3], [1.0, 3.0])
    directory.metrics.write_text('{"step": 1, "a": soon}\n')
    with pytest.raises(RunError, match="damaged row"):
        read_curve(directory, "a")


def test_smoothing_is_a_mean_of_neighbours() -> None:
    assert smooth(([1, 2, 3, 4, 5], [1, 9, 2, 8, 5]), rows=3)[1] == [1, 4, 19 / 3, 5, 5]


def test_runs_are_drawn_and_saved(tmp_path: Path) -> None:
    run_with_rows(tmp_path, "left")
    run_with_rows(tmp_path, "right", count=1)
    make_run(tmp_path, "bare")
    base = ["plot", "left", "right", "--root", str(tmp_path), "--metric", "train/loss"]
    text = CliRunner().invoke(app, base, env={"COLUMNS": "100"}).stdout
    assert "train/loss" in text
    assert max(map(len, text.splitlines())) <= 100
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    for path in (page, picture):
        assert CliRunner().invoke(app, [*base, "--save", str(path)]).exit_code == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    written = page.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=", written)
    body = re.search(r'id="data" type="application/json">(.*?)</script>', written)
    assert body is not None
    assert [item["name"] for item in json.loads(body[1])["series"]] == ["left", "right"]
    result = CliRunner().invoke(app, ["plot", "bare", "--root", str(tmp_path)])
    assert isinstance(result.exception, RunError)
