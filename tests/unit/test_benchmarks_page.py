"""Every figure of docs/benchmarks.md is one of the tables in benchmarks/results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"

STEP = r"^{} +{} +[\d,]+ +([\d.]+) \("
CPU, RANKS, AVX2 = "2026-11-21-cpu.md", "2026-11-21-distributed.md", "2026-11-avx2.md"

FIGURES = {
    "| training, 4 layers × 256, `auto` |": [(CPU, STEP.format("4x256", "forge auto"), "3.84")],
    "| the same in fp32 |": [(CPU, STEP.format("4x256", "forge fp32"), "2.13")],
    "| training, 6 layers × 384, `auto` |": [(CPU, STEP.format("6x384", "forge auto"), "3.42")],
    "| greedy generation, one prompt, bf16 |": [
        (CPU, STEP.format("4x256 +1 greedy", "llmforge bf16"), "2.40")
    ],
    "| greedy generation, eight prompts, bf16 |": [
        (CPU, STEP.format("4x256 +8 greedy", "llmforge bf16"), "2.63")
    ],
    "| DDP, two ranks, whole runs |": [(RANKS, r"^\| DDP \|.*\| ([\d.]+) \[", "1.003")],
    "| ZeRO 1, 2, 3, whole runs |": [
        (RANKS, r"^\| ZeRO-1 \|.*\| ([\d.]+) \[", "0.988"),
        (RANKS, r"^\| ZeRO-2 \|.*\| ([\d.]+) \[", "0.930"),
        (RANKS, r"^\| ZeRO-3 \|.*\| ([\d.]+) \[", "0.987"),
    ],
    "| the step thread's share spent on logging |": [
        ("2026-11-21-courier.md", r"^share, logging +[\d.]+% +([\d.]+)%", "0.94")
    ],
    "In fp32, 4 × 256 reached": [
        (AVX2, STEP.format("4x256", "forge fp32"), "1.31"),
        (AVX2, STEP.format("6x384", "forge fp32"), "0.96"),
    ],
}
"""Beginning of a line of the page: where each of its figures comes from, and the figure."""


def line(beginning: str) -> str:
    """Return the row of the page, or the end of its paragraph, that has the figures."""
    return PAGE[PAGE.index(beginning) :].split("\n|" if beginning[0] == "|" else "\n\n")[0]


@pytest.mark.parametrize("beginning", FIGURES)
def test_a_figure_is_the_one_that_was_measured(beginning: str) -> None:
    for file, pattern, figure in FIGURES[beginning]:
        measured = re.search(pattern, (RESULTS / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert measured, f"{file} has no row {pattern}"
        assert f"{float(measured[1]):.{len(figure.split('.')[1])}f}" == figure
        assert figure in line(beginning)


def test_the_error_of_the_memory_plan_is_the_largest_measured() -> None:
    table = (
        (RESULTS / "2026-11-21-plan.md").read_text(encoding="utf-8").split("The shares of two")[0]
    )
    errors = [float(row.split("|")[5].strip(" %")) for row in table.splitlines() if " MB |" in row]
    assert max(abs(error) for error in errors) == 0.1
    assert "| within 0.1 % |" in PAGE


def test_every_row_of_the_page_is_held_to_a_result() -> None:
    rows = [row for row in PAGE.splitlines() if re.match(r"\| (?!what|memory predicted)[^-]", row)]
    assert len(rows) == len([key for key in FIGURES if key.startswith("|")])
