"""Reports of generation tests as people read them: of one model, and of two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmforge.cli.render import Column, print_table

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 40
"""Characters of a response in a table."""


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print a short table of ``examples.json``, and the success rate."""
    columns = [
        Column("test", fold=True),
        Column("response", fold=True),
        Column("tokens", right=True),
        Column("speed", right=True),
        Column("distinct", right=True),
        Column("repetition", right=True),
        Column("checks", styles={"passed": "green"}),
    ]
    rows = [
        [item["name"], _shortened(item["response"]), *_numbers(item), verdict(item)]
        for item in report["tests"]
    ]
    print_table(console, columns, rows, indent=2)
    console.print(f"  {summary(report)}")


def print_comparison(
    console: Console, prompts: Sequence[str], runs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print what each run responded, test by test, with its numbers.

    Args:
        console: where to.
        prompts: of the tests.
        runs: reports by the name of the run.
    """
    for index, prompt in enumerate(prompts):
        items = {run: report["tests"][index] for run, report in runs.items()}
        name = next(iter(items.values()))["name"]
        console.print(f"\ntest {name}: {prompt}", style="bold")
        if console.is_terminal:
            _print_columns(console, items)
            continue
        for run, item in items.items():
            console.print(f"  {run}: {item['response']!r}")
            console.print(f"    {_numbers_line(item)}")
    console.print()
    columns = [
        Column("run", fold=True),
        *(Column(name, right=True) for name in ("passed", "tokens", "speed", "repetition")),
    ]
    print_table(console, columns, [[run, *_totals(report)] for run, report in runs.items()])


def _print_columns(console: Console, items: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the responses to one test side by side."""
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, show_footer=True)
    for run, item in items.items():
        table.add_column(Text(run), ratio=1, footer=Text(_numbers_line(item)), footer_style="dim")
    table.add_row(*(Text(item["response"]) for item in items.values()))
    console.print(table)


def _numbers_line(item: Mapping[str, Any]) -> str:
    tokens, speed, distinct, repeated = _numbers(item)
    return (
        f"{verdict(item)}; {tokens} tokens in {item['seconds']:.2f} s ({speed}), "
        f"distinct-1/2 {distinct}, repetition {repeated}, ended by {item['finish']}"
    )


def summary(report: Mapping[str, Any]) -> str:
    """Return how many tests are passed."""
    judged = [item["passed"] for item in report["tests"] if item["passed"] is not None]
    if not judged:
        return f"{len(report['tests'])} tests, none with checks"
    return f"{sum(judged)} of {len(judged)} tests with checks passed ({_percent(report)})"


def verdict(item: Mapping[str, Any]) -> str:
    """Return whether the checks of a test are passed, and which are not."""
    failed = [name for name, passed in item["checks"].items() if not passed]
    if item["passed"] is None:
        return "no checks"
    return f"failed: {', '.join(failed)}" if failed else "passed"


def _percent(report: Mapping[str, Any]) -> str:
    rate = report["success_rate"]
    return "" if rate is None else f"{rate:.0%}"


def _numbers(item: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (
        str(item["tokens"]),
        f"{item['tokens_per_second']:,.0f}/s",
        f"{item['distinct_1']:.2f}/{item['distinct_2']:.2f}",
        f"{item['repetition']:.2f}",
    )


def _totals(report: Mapping[str, Any]) -> list[str]:
    tests = report["tests"]
    tokens = sum(item["tokens"] for item in tests)
    seconds = sum(item["seconds"] for item in tests)
    repeated = sum(item["repetition"] for item in tests) / len(tests)
    return [
        _percent(report) or "no checks",
        f"{tokens:,}",
        f"{tokens / max(seconds, 1e-9):,.0f}/s",
        f"{repeated:.2f}",
    ]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
