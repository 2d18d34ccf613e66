"""Every figure on the benchmarks page, and on pages that repeat one, is in benchmarks/results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
from doc_pages import DOCS, ROOT

RESULTS = ROOT / "benchmarks" / "results"
CPU, DISTRIBUTED = "2026-11-21-cpu.md", "2026-11-21-distributed.md"
LOOKING = "2026-11-30-looking-at-runs.md"
ZEN3 = "2026-11-30-zen3.md"
COURIER, PLAN = "2026-11-21-courier.md", "2026-11-21-plan.md"
PAGE = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
NUMBER = r"[\d.]+"


def result(file: str) -> str:
    """Return a file of results."""
    return (RESULTS / file).read_text(encoding="utf-8")


def only(pattern: str, text: str) -> str:
    """Return what the group of ``pattern`` matches in its only line."""
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 1, f"{pattern}: {found}"
    return str(found[0])


def training(size: str, contender: str) -> str:
    """Return how many times the plain loop's tokens per second a contender reached."""
    table = result(CPU).split("benchmarks/train_step.py")[1].split("```")[1]
    return only(rf"^{size} +{contender} +[\d,]+ +({NUMBER}) \(", table)


def generation(batch: int) -> str:
    """Return greedy generation's ratio to transformers in fp32 at this batch size."""
    table = result(CPU).split("benchmarks/generate.py")[1].split("```")[1]
    return only(rf"^4x256 +{batch} greedy +llmforge bf16 +[\d,]+ +({NUMBER}) \(", table)


def with_int8(size: str, batch: int) -> str:
    """Return greedy generation's ratio to the same in fp32."""
    return only(
        rf"^{size} +{batch} greedy +llmforge int8 +[\d,]+ +({NUMBER}) \(",
        result("2026-11-30-int8.md"),
    )


def serving(clients: int) -> str:
    """Return the ratio of ``forge serve`` to texts written one after the other."""
    return only(
        rf"^ +{clients}  forge serve +[\d,]+ +({NUMBER}) \(", result("2026-11-30-serving.md")
    )


def fine_tuning(size: str) -> list[str]:
    """Return the ratios of packed rows to the Trainer: tokens per second, and peak memory."""
    table = result("2026-11-30-fine-tuning.md").split("```")[1].split("--lora")[0]
    numbers = rf"({NUMBER}) \([^)]*\) +{NUMBER} +[\d,]+ +({NUMBER})$"
    ((speed, memory),) = re.findall(
        rf"^{size} +forge packed +[\d,]+ +[\d,]+ +{numbers}", table, re.MULTILINE
    )
    return [speed, memory]


def tokenising() -> list[str]:
    """Return the rates a core of ``forge data prepare`` and of the plain loop, and the memory."""
    table = result("2026-11-30-tokenising.md").split("```")[1]
    numbers = rf"({NUMBER}) +{NUMBER} +({NUMBER})"
    ((rate, memory),) = re.findall(rf"^forge data prepare +4,096 +500 +{numbers} ", table, re.M)
    plain = only(rf"^tokenizers, encode_batch +4,096 +50 +({NUMBER}) ", table)
    return [rate, plain, memory]


def starting(command: str) -> str:
    """Return how many times as long as a bare interpreter's start a command took."""
    table = result("2026-11-30-startup.md").split("```")[1]
    return only(rf"^{command} +\d+ +\d+ +({NUMBER}) ", table)


def distributed(row: str) -> str:
    """Return a whole run's ratio to its bare loop."""
    table = result(DISTRIBUTED).split("## Engines alone")[0]
    return only(rf"^\| {row} \| {NUMBER} \| {NUMBER} \| ({NUMBER}) ", table)


def logging_share() -> str:
    """Return the share in percent, of the run with MLflow's server dead on both cores."""
    part = result(COURIER).split("PyTorch with both cores:")[1].split("```")[1]
    assert "mlflow: server down" in part
    assert "a row every 1," in part
    return f"{float(only(rf'^share, logging +{NUMBER}% +({NUMBER})%$', part)):.2f}"


def plan_error() -> str:
    """Return the largest error in percent of what one process was predicted to allocate."""
    table = result(PLAN).split("The shares of two ranks")[0]
    errors = re.findall(r"MB \| +([-+][\d.]+)% \| +[\d,]+ MB", table)
    assert len(errors) == table.count("| fp32") + table.count("| bf16")
    return str(max(abs(float(item)) for item in errors))


def on_the_page(action: str) -> str:
    """Return the median in milliseconds from an action on the page to the frame that shows it."""
    return only(rf"^{action} +\d+ +(\d+) +\d+$", result(ZEN3))


ROWS: Mapping[str, Callable[[], list[str]]] = {
    "training, 4 layers × 256, `auto`": lambda: [training("4x256", "forge auto")],
    "the same in fp32": lambda: [training("4x256", "forge fp32")],
    "training, 6 layers × 384, `auto`": lambda: [training("6x384", "forge auto")],
    "greedy generation, one prompt, bf16": lambda: [generation(1)],
    "greedy generation, eight prompts, bf16": lambda: [generation(8)],
    "serving eight clients, 6 layers × 384, fp32": lambda: [serving(8)],
    "fine-tuning on instructions, 4 layers × 256, fp32": lambda: fine_tuning("4x256"),
    "fine-tuning on instructions, 6 layers × 384, fp32": lambda: fine_tuning("6x384"),
    "tokenising 500 MB, vocabulary 4,096": tokenising,
    "DDP, two ranks, whole runs": lambda: [distributed("DDP")],
    "ZeRO 1, 2, 3, whole runs": lambda: [distributed(f"ZeRO-{stage}") for stage in (1, 2, 3)],
    "`forge --help`": lambda: [starting("forge --help")],
    "`forge train` of a completed run": lambda: [
        starting("forge train wikitext_tiny, from a note")
    ],
    "the step thread's share spent on logging": lambda: [logging_share()],
    "memory predicted by `forge plan`, one process": lambda: [plan_error()],
    "opening a run from the table of `forge ui`": lambda: [on_the_page("open a run")],
    "comparing three of them": lambda: [on_the_page("compare three runs")],
    "`forge monitor` on a run of 100,000 rows": lambda: [
        only(rf"^({NUMBER})% of a core", result(LOOKING))
    ],
}
"""What each row of the page's table must show, worked out from the files."""


def shown(text: str) -> dict[str, list[str]]:
    """Return the figures of each row of the page's table by what the row measures."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: re.findall(r"\d+(?:\.\d+)?", cells[2]) for cells in rows[1:]}


def test_every_row_of_the_page_is_worked_out_here_and_no_other() -> None:
    assert list(shown(PAGE)) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_figures_of_a_row_are_those_of_its_file(row: str) -> None:
    assert shown(PAGE)[row] == ROWS[row]()


def test_the_only_figures_outside_of_the_table_are_those_of_the_slower_machine() -> None:
    prose = "\n".join(line for line in PAGE.splitlines() if not line.startswith("|"))
    table = result(ZEN3)
    slower = [
        only(rf"^{size} +forge fp32 +[\d,]+ +({NUMBER}) \(", table) for size in ("4x256", "6x384")
    ]
    cases = (("4x256", 1), ("6x384", 1), ("12x768", 1), ("4x256", 8), ("6x384", 8))
    int8 = [with_int8(size, batch) for size, batch in cases]
    assert re.findall(r"\d+\.\d[\d.]*", prose) == ["2.13.0", *slower, *int8]


def test_the_machine_of_the_page_is_the_one_of_the_results() -> None:
    for word in ("AMD EPYC", "avx512_bf16", "24 GB", "torch 2.13.0"):
        assert word in PAGE
        assert word in result(CPU).split("\n\n")[1].replace("\n", " ")
    assert "21 November 2026" in PAGE


def test_the_scripts_the_page_names_are_those_of_the_results() -> None:
    everything = "".join(path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md"))
    for script in re.findall(r"`python (benchmarks/\w+\.py)", PAGE):
        assert (ROOT / script).is_file()
        assert f"python {script}" in everything


def test_the_page_on_several_processes_repeats_the_same_figures() -> None:
    text = (DOCS / "how-to" / "several-gpus.md").read_text(encoding="utf-8").replace("\n", " ")
    row = next(line for line in result(DISTRIBUTED).splitlines() if line.startswith("| DDP"))
    low, high = re.findall(rf"\[({NUMBER}), ({NUMBER})\]", row)[0]
    zero = [f"{float(distributed(f'ZeRO-{stage}')):.2f}" for stage in (1, 2, 3)]
    assert f"{distributed('DDP')} times the bare loop's step with DDP" in text
    assert f"95 % interval {low} to {high}" in text
    assert f"{zero[0]}, {zero[1]} and {zero[2]} times with ZeRO 1, 2 and 3" in text


def test_a_figure_that_is_not_the_files_is_noticed() -> None:
    row = "training, 4 layers × 256, `auto`"
    wrong = PAGE.replace(ROWS[row]()[0], "9.99")
    assert shown(wrong)[row] != ROWS[row]()
    assert shown(PAGE.replace(f"| {row} ", "| another ")).keys() != ROWS.keys()
