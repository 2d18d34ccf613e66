"""Telling people what a run does: dense plain lines, or a live display on a terminal."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmforge.progress import Display, duration, show_on
from llmforge.run.reporting.progress_bars import add_bars

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

log = logging.getLogger("llmforge.run")

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_POINTS = 40


class Reporter:
    """Writes what happens to the log; subclasses show it on a screen too.

    The log goes to the run's log file, and to the console by the handlers of the command line.
    """

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """Write a line about the run."""
        log.info(text)

    def phase(self, text: str) -> None:
        """Say what is being done before or after the steps."""
        self.say(text)

    def notice(self, text: str) -> None:
        """Say something the user should not miss."""
        log.warning(text)

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        """Show a metrics row with its timing."""
        log.info(step_line(row, timing, total=total))

    def evaluation(self, step: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Show an evaluation's values."""
        log.info(evaluation_line(step, values, is_best=is_best))


class LiveReporter(Reporter):
    """Keeps a small live table below the log lines: progress, ETA, loss, speed, sparkline."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._losses: deque[float] = deque(maxlen=_SPARK_POINTS)
        self._row: dict[str, Any] = {}
        self._timing: dict[str, Any] = {}
        self._evaluation: dict[str, float] = {}
        self._best: float | None = None
        self._phase = "starting"
        self._total = 0
        self._bars: Display | None = None

    def __enter__(self) -> LiveReporter:
        from rich.live import Live

        from llmforge.run.reporting.console import console

        self._bars = show_on(None)  # its own table has them
        self._live = Live(
            get_renderable=self._table, console=console(), refresh_per_second=4, transient=True
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        show_on(self._bars)

    def phase(self, text: str) -> None:
        """Show the phase in the live table; the log file gets a line, the screen does not."""
        self._phase = text
        log.info(text, extra={"screen": False})

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> None:
        """Update the live table; the log file gets the line, the screen does not."""
        self._phase = "training"
        self._row, self._timing, self._total = dict(row), dict(timing), total
        if "train/loss" in row:
            self._losses.append(row["train/loss"])
        log.info(step_line(row, timing, total=total), extra={"screen": False})

    def evaluation(self, step: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Show the evaluation in the live table and as a line."""
        self._evaluation = dict(values)
        if is_best:
            self._best = values["val/loss"]
        super().evaluation(step, values, is_best=is_best)

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        step = int(self._row.get("step", 0))
        table.add_row(Text(self._phase, style="bold"), "")
        add_bars(table)
        if not self._row:
            return table
        bar = ProgressBar(total=self._total, completed=step, width=40)
        eta = duration(self._timing.get("eta_seconds", 0.0))
        table.add_row(f"step {step:,}/{self._total:,}  epoch {self._row['epoch']:.2f}", bar)
        speed = f"{self._timing.get('tokens_per_second', 0.0):,.0f} tokens/s   ETA {eta}"
        if self._timing.get("mfu"):
            speed += f"   MFU {self._timing['mfu']:.1%}"
        loss = self._row.get("train/loss")
        table.add_row("" if loss is None else f"train loss {loss:.4f}", sparkline(self._losses))
        if self._evaluation:
            best = "" if self._best is None else f"   best loss {self._best:.4f}"
            perplexity = self._evaluation["val/perplexity"]
            table.add_row(
                f"val loss {self._evaluation['val/loss']:.4f}", f"perplexity {perplexity:.2f}{best}"
            )
        table.add_row(f"lr {self._row.get('lr', 0.0):.2e}", speed)
        return table


class TerminalFilter(logging.Filter):
    """Keeps lines that the live display shows in its own way off the screen."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether ``record`` goes to the screen."""
        return getattr(record, "screen", True)


def make_reporter() -> Reporter:
    """Return the live display on a terminal, plain lines otherwise."""
    return LiveReporter() if sys.stdout.isatty() else Reporter()


def step_line(row: Mapping[str, Any], timing: Mapping[str, Any], *, total: int) -> str:
    """Return one dense line about a step."""
    parts = [f"step {row['step']:>{len(str(total))}}/{total}", f"epoch {row['epoch']:.2f}"]
    if "train/loss" in row:
        parts.append(f"loss {row['train/loss']:.4f}")
        parts.append(f"lr {row['lr']:.2e}")
        parts.append(f"grad {row['grad_norm']:.2f}")
    if "tokens_per_second" in timing:
        parts.append(f"{timing['tokens_per_second']:,.0f} tok/s")
    if timing.get("mfu"):
        parts.append(f"mfu {timing['mfu']:.1%}")
    parts.append(f"eta {duration(timing.get('eta_seconds', 0.0))}")
    return "  ".join(parts)


def evaluation_line(step: int, values: Mapping[str, float], *, is_best: bool) -> str:
    """Return one line about an evaluation."""
    shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    return f"evaluation at step {step}: {shown}{'  (best)' if is_best else ''}"


def sparkline(values: deque[float]) -> str:
    """Return ``values`` as a line of small bars."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in values)
