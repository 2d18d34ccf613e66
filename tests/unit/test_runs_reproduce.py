"""``forge runs reproduce``: what differs from the record, and whether a repetition is the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from run_parts import make_run, write_rows

from llmforge.insight.reproduction import changes_since, compare_metrics, data_changes
from llmforge.run.setup.provenance import provenance
from llmforge.rundir import read_record

ROWS = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0}]


def test_nothing_differs_from_a_record_made_just_now(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "x", provenance=provenance())
    assert changes_since(read_record(directory)) == []


def test_code_packages_and_machine_are_held_against_the_record(tmp_path: Path) -> None:
    then = provenance()
    then["packages"] = {**then["packages"], "numpy": "0.1"}
    then |= {"python": "2.7", "git": {"commit": "f" * 40, "changed": {"a.py": "1"}}}
    changes = changes_since(read_record(make_run(tmp_path, "x", provenance=then)))
    named = {change.name: change.recorded for change in changes}
    assert named["commit"] == "f" * 12
    assert named["changed file a.py"] == "1"
    assert named["package numpy"] == "0.1"
    assert named["python"] == "2.7"
    assert "package torch" not in named


def test_other_data_are_noticed(tmp_path: Path) -> None:
    one, other = (
        read_record(make_run(tmp_path, name, fingerprints={"data": name})) for name in "ab"
    )
    (change,) = data_changes(one, other)
    assert (change.name, change.recorded, change.here) == ("fingerprint of data", "a", "b")


@pytest.mark.parametrize(
    ("rows", "identical", "furthest", "within"),
    [
        (ROWS, True, 0.0, True),
        ([ROWS[0], {"step": 2, "train/loss": 1.0001}], False, 1e-4, True),
        ([ROWS[0], {"step": 2, "train/loss": 1.1}], False, 0.1, False),
        (ROWS[:1], False, math.inf, False),
        ([ROWS[0], {"step": 2, "val/loss": 1.0}], False, math.inf, False),
        ([ROWS[0], {"step": 2, "train/loss": math.nan}], False, math.inf, False),
    ],
)
def test_metrics_are_compared_bit_for_bit_and_within_a_tolerance(
    tmp_path: Path, rows: list[dict[str, float]], identical: bool, furthest: float, within: bool
) -> None:
    one, other = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    write_rows(one.metrics, ROWS)
    write_rows(other.metrics, rows)
    found = compare_metrics(one, other, tolerance=1e-3)
    assert (found.identical, found.within) == (identical, within)
    assert found.furthest == pytest.approx(furthest)
