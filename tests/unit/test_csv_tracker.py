"""The CSV tracker's files: one row per step, whole after a kill, nothing twice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from llmforge.events import EvaluationEnded, Event, MetricsLogged, RunStarted, SamplesGenerated
from llmforge.plugins import build_manager, load
from llmforge.testing import make_component


class Table:
    """The tracker in a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        """Start again, as a new courier does."""
        self._manager = build_manager([make_component(load("tracker", "csv"))])
        where = str(self.path)
        self.tell(RunStarted(run_id="r", attempt=1, restart=1, directory=where, config={}))

    def tell(self, *told: Event) -> None:
        for event in told:
            getattr(self._manager.hook, event.hook)(event=event)

    def file(self, name: str = "metrics.csv") -> Path:
        return self.path / "trackers" / "csv" / name

    def rows(self, name: str = "metrics.csv") -> list[dict[str, str]]:
        csv.field_size_limit(1 << 30)
        with self.file(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def metrics(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values, time=0.0)


def evaluation(step: int, **values: float) -> EvaluationEnded:
    return EvaluationEnded(step=step, split="validation", values=values, time=0.0)


def samples(step: int, *texts: str, **more: Any) -> SamplesGenerated:
    rows = tuple({"prompt": "The", "text": text, **more} for text in texts)
    return SamplesGenerated(step=step, samples=rows)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_values_of_a_step_share_a_row_and_new_names_become_columns(table: Table) -> None:
    table.tell(metrics(1, loss=2.0), metrics(2, loss=1.5), evaluation(2, val=1.75))
    table.tell(metrics(3, loss=1.0, speed=10), evaluation(4, val=0.5))
    assert table.rows() == [
        {"step": "1", "loss": "2.0", "val": "", "speed": ""},
        {"step": "2", "loss": "1.5", "val": "1.75", "speed": ""},
        {"step": "3", "loss": "1.0", "val": "", "speed": "10"},
        {"step": "4", "loss": "", "val": "0.5", "speed": ""},
    ]


def test_a_later_value_of_an_earlier_step_finds_its_row(table: Table) -> None:
    table.tell(
        metrics(1, a=1, b=1), metrics(5, a=5), metrics(3, b=3), metrics(1, a=9), metrics(6, a=6)
    )
    assert [(row["step"], row["a"], row["b"]) for row in table.rows()] == [
        ("1", "1", "1"),
        ("3", "", "3"),
        ("5", "5", ""),
        ("6", "6", ""),
    ]


def test_what_is_told_again_after_a_kill_is_there_once(table: Table) -> None:
    table.tell(metrics(1, loss=2.0), metrics(2, loss=1.5), samples(2, "a", "b"))
    table.start()
    table.tell(
        metrics(2, loss=1.5), samples(2, "a", "b"), evaluation(2, val=1.0), metrics(3, loss=1.0)
    )
    assert [(row["step"], row["loss"], row["val"]) for row in table.rows()] == [
        ("1", "2.0", ""),
        ("2", "1.5", "1.0"),
        ("3", "1.0", ""),
    ]
    assert [row["text"] for row in table.rows("samples.csv")] == ["a", "b"]


@pytest.mark.parametrize("torn", ["3", "3,", "3,0.2"])
def test_a_row_torn_by_a_kill_is_cut_off(table: Table, torn: str) -> None:
    table.tell(metrics(1, loss=2.0), metrics(2, loss=1.5))
    with table.file().open("a") as file:
        file.write(torn)
    table.start()
    table.tell(metrics(3, loss=0.25))
    assert [row["loss"] for row in table.rows()] == ["2.0", "1.5", "0.25"]


def test_samples_of_any_content_are_read_back(table: Table) -> None:
    text = 'a "quoted", long\n\ntext' + "x" * 200_000
    table.tell(samples(2, text, tokens=5), samples(4, "end", finish="stop"))
    rows = table.rows("samples.csv")
    assert [row["text"] for row in rows] == [text, "end"]
    assert [(row["step"], row["tokens"], row["finish"]) for row in rows] == [
        ("2", "5", ""),
        ("4", "", "stop"),
    ]


def test_numbers_come_back_exactly(table: Table) -> None:
    table.tell(metrics(1, a=0.1 + 0.2, b=float("nan"), c=float("-inf"), d=3))
    (row,) = table.rows()
    assert float(row["a"]) == 0.1 + 0.2
    assert (row["b"], row["c"], row["d"]) == ("nan", "-inf", "3")


def test_a_new_row_writes_only_itself(table: Table) -> None:
    table.tell(*(metrics(step, loss=1.0) for step in range(1, 50)))
    before = table.file().stat().st_ino
    table.tell(metrics(50, loss=1.0), evaluation(50))
    assert table.file().stat().st_ino == before
    table.tell(evaluation(50, val=1.0))
    assert table.file().stat().st_ino != before
