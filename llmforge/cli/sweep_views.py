"""Sweeps as people see them: a live table, a line per event in a pipe, lists and summaries."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.cli.render import (
    STATE_STYLES,
    Column,
    duration_text,
    number,
    print_section,
    print_table,
)
from llmforge.errors import UsageError
from llmforge.sweeps.summary import Summary, as_row, summarize
from llmforge.sweeps.sweep import Sweep
from llmforge.sweeps.trials import Trial

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {**STATE_STYLES, "pruned": "yellow", "waiting": "yellow"}
_LIVE_ROWS = 30


@contextmanager
def progress(sweep: Sweep) -> Iterator[Callable[[Sequence[Trial]], None]]:
    """Yield what shows the trials while they run: a live table, or plain lines in a pipe."""
    from llmforge.run.reporting.console import console

    out = console()
    if not out.is_terminal:
        yield _Lines(sweep, out)
        return
    from rich.live import Live

    with Live(console=out, refresh_per_second=2) as live:
        yield lambda trials: live.update(live_table(sweep, trials, rows=_LIVE_ROWS))


class _Lines:
    """Prints a line whenever a trial begins or ends."""

    def __init__(self, sweep: Sweep, out: Console) -> None:
        self._sweep = sweep
        self._out = out
        self._told: dict[tuple[int, int], tuple[str, int]] | None = None

    def __call__(self, trials: Sequence[Trial]) -> None:
        now: dict[tuple[int, int], tuple[str, int]] = {
            (trial.number, trial.repeat): (trial.state, len(trial.attempts)) for trial in trials
        }
        told, self._told = self._told, now
        if told is None:
            running = [trial for trial in trials if trial.state == "running"]
            changed = running  # what ended before this start is not told again
        else:
            changed = [
                trial
                for trial in trials
                if told.get((trial.number, trial.repeat)) != now[trial.number, trial.repeat]
            ]
        for trial in changed:
            self._out.print(_line(self._sweep, trial))


def _line(sweep: Sweep, trial: Trial) -> str:
    parts = [f"trial {_name(trial)}", trial.state, _parameters_text(sweep, trial)]
    if trial.value is not None:
        parts.append(f"{sweep.recipe.sweep.metric} {trial.value:.4f}")
    result = trial.result
    if result is not None and result.reused:
        parts.append("reused")
    if result is not None and result.reason:
        parts.append(result.reason)
    if trial.state not in ("running", "waiting"):
        parts.append(duration_text(trial.seconds))
    return "  ".join(parts)


def live_table(sweep: Sweep, trials: Sequence[Trial], *, rows: int) -> Table:
    """Return the newest trials as a Rich table with the counts below."""
    from rich.table import Table
    from rich.text import Text

    metric = sweep.recipe.sweep.metric
    summary = _summary(sweep, trials)
    hidden = max(len(trials) - rows, 0)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.title, table.title_justify = sweep.id, "left"
    for name in ("trial", "state", "parameters", metric, "step", "time"):
        table.add_column(name, justify="right" if name in (metric, "step", "time") else "left")
    for trial in trials[hidden:]:
        best = summary.best is not None and trial.number == summary.best.number
        newest = max(trial.curve, default=None)
        value = trial.value if trial.value is not None else trial.curve.get(newest or -1)
        table.add_row(
            _name(trial),
            Text(trial.state, style=_STYLES.get(trial.state, "")),
            _parameters_text(sweep, trial),
            number(value) + (" *" if best else ""),
            "" if newest is None else str(newest),
            duration_text(trial.seconds) if trial.seconds else "",
        )
    table.caption = _counts_text(summary)
    table.caption_justify = "left"
    return table


def print_end(out: Console, sweep: Sweep, reason: str) -> None:
    """Print how the sweep ended, and what to type next."""
    summary = _summary(sweep, sweep.ledger().trials())
    out.print(f"\n{sweep.id}: {reason}", style="bold")
    _print_best(out, sweep, summary)


def print_status(out: Console, sweep: Sweep) -> None:
    """Print how far a sweep is."""
    ledger = sweep.ledger()
    trials = ledger.trials()
    summary = _summary(sweep, trials)
    tried = len({trial.number for trial in trials})
    started = f"{tried} of {sweep.recipe.sweep.max_trials} points started"
    out.print(f"{sweep.id}: {started}", style="bold")
    if ledger.stopped:
        out.print(f"  {ledger.stopped}")
    for trial in trials:
        if trial.state == "running":
            worker = trial.last.worker
            where = f"process {worker.get('pid')} on {worker.get('host')}"
            step = max(trial.curve, default=0)
            out.print(f"  running: {trial.run.get('id', '')}, step {step}, {where}")
    _print_best(out, sweep, summary)
    if (
        any(trial.state in ("running", "waiting") for trial in trials)
        or tried < sweep.recipe.sweep.max_trials
    ):
        out.print(f"  resume    forge sweep resume {sweep.id}")


def print_list(out: Console, sweeps: Sequence[Sweep]) -> None:
    """Print a line for each sweep."""
    rows = []
    for sweep in sweeps:
        summary = _summary(sweep, sweep.ledger().trials())
        rows.append(
            (
                sweep.id,
                sweep.recipe.selected("sweep").name,
                _counts_text(summary),
                sweep.recipe.sweep.metric,
                "" if summary.best is None else number(summary.best.value),
            )
        )
    columns = [Column("sweep"), Column("sweeper"), Column("trials"), Column("metric")]
    print_table(out, [*columns, Column("best", right=True)], rows)


def print_trials(out: Console, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Print every trial, with the reasons of those that failed or were pruned."""
    summary = _summary(sweep, trials)
    rows = []
    for trial in trials:
        best = summary.best is not None and trial.number == summary.best.number
        result = trial.result
        reused = result is not None and result.reused
        rows.append(
            (
                _name(trial),
                trial.state,
                _parameters_text(sweep, trial),
                number(trial.value) + (" *" if best else ""),
                str(max(trial.curve, default="")),
                duration_text(trial.seconds),
                trial.run.get("id", ""),
                "reused" if reused else (result.reason if result is not None else ""),
            )
        )
    metric = sweep.recipe.sweep.metric
    columns = [
        Column("trial"),
        Column("state", styles=_STYLES),
        Column("parameters", fold=True),
        Column(metric, right=True),
        Column("step", right=True),
        Column("time", right=True),
        Column("run", fold=True),
        Column("why", fold=True),
    ]
    print_table(out, columns, rows)


def status_json(sweep: Sweep) -> dict[str, Any]:
    """Return how far a sweep is as plain values."""
    summary = _summary(sweep, sweep.ledger().trials())
    best = summary.best
    return {
        "id": sweep.id,
        "metric": sweep.recipe.sweep.metric,
        "direction": sweep.recipe.sweep.direction,
        "max_trials": sweep.recipe.sweep.max_trials,
        "states": summary.states,
        "reused": summary.reused,
        "seconds": summary.seconds,
        "best": None
        if best is None or summary.best_trial is None
        else {
            "number": best.number,
            "value": best.value,
            "spread": summary.spread,
            "parameters": sweep.space.with_ties(best.parameters),
            "run": summary.best_trial.run.get("id", ""),
        },
        "directory": str(sweep.directory.path),
    }


def write_table(path: Path, sweep: Sweep) -> None:
    """Write every trial as CSV or JSON, by the file's ending.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    rows = [as_row(trial, sweep.space) for trial in sweep.ledger().trials()]
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path} is neither .csv nor .json", remedy="--output trials.csv")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".json":
                json.dump(rows, file, indent=1)
                return
            flat = [row | row.pop("parameters") for row in rows]
            names = list(dict.fromkeys(name for row in flat for name in row))
            writer = csv.DictWriter(file, fieldnames=names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _print_best(out: Console, sweep: Sweep, summary: Summary) -> None:
    best, trial = summary.best, summary.best_trial
    counts = {"trials": _counts_text(summary)}
    if best is None or trial is None:
        print_section(out, "", {"best": "no trial is completed yet", **counts})
        return
    spread = "" if summary.spread is None else f" +- {summary.spread:.4f}"
    values = {
        "best": f"{sweep.recipe.sweep.metric} {number(best.value)}{spread} ({_name(trial)})",
        "with": _parameters_text(sweep, trial),
        "run": trial.run.get("id", ""),
        **counts,
    }
    if sweep.directory.best.exists():
        values["train it"] = f"forge train {sweep.directory.best}"
    if sweep.directory.report.exists():
        values["look at"] = str(sweep.directory.report)
    print_section(out, "", values)


def _summary(sweep: Sweep, trials: Sequence[Trial]) -> Summary:
    return summarize(trials, sweep.space, direction=sweep.recipe.sweep.direction)


def _counts_text(summary: Summary) -> str:
    counts = [f"{count} {state}" for state, count in sorted(summary.states.items())]
    if summary.reused:
        counts.append(f"{summary.reused} of them reused")
    if summary.seconds:
        counts.append(f"{duration_text(summary.seconds)} of training")
    return ", ".join(counts) or "nothing tried yet"


def _name(trial: Trial) -> str:
    return f"{trial.number}" if not trial.repeat else f"{trial.number}.{trial.repeat}"


def _parameters_text(sweep: Sweep, trial: Trial) -> str:
    """Return the values by the last word of each key, or by the whole key where that is unclear."""
    values = sweep.space.with_ties(trial.parameters)
    short = [key.rpartition(".")[2] for key in values]
    return " ".join(
        f"{name if short.count(name) == 1 and name != 'name' else key}={_short_value(value)}"
        for (key, value), name in zip(values.items(), short, strict=True)
    )


def _short_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
