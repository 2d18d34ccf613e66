"""How watched runs look: one in full, several together, each as one line of text."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from llmforge.cli.render import STATE_STYLES, age_text, duration_text, number
from llmforge.insight.terminal_plot import SMALLEST, styled_plot, terminal_plot
from llmforge.monitor import CheckpointAge, Snapshot, Upload
from llmforge.monitor.snapshot import Points
from llmforge.printable import printable_line
from llmforge.progress import size_text

if TYPE_CHECKING:
    from rich.console import Console

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d (?P<time>\d\d:\d\d:\d\d),\d{3} (?:INFO )?")
_NARROWEST = 40
_FACT_WIDTH = 38
_FEWEST_LOG_LINES = 3
_TALLEST_PLOT = 22
_MOST_CURVES = 6
_STATE_STYLES = {**STATE_STYLES, "waiting": "dim"}

Fact = tuple[str, str]
"""A label and its value."""


class MonitorView:
    """Lays snapshots out for a console.

    Args:
        console: where they are shown; without colours curves are told apart by marks.
        height: lines there are; None for as many as it takes.
    """

    def __init__(self, console: Console, *, height: Callable[[], int | None]) -> None:
        self._console = console
        self._height = height
        self._colours = console.is_terminal and not console.no_color
        self._unicode = console.encoding.lower().startswith("utf")
        self._plot: tuple[object, list[Text]] = (None, [])

    def lines(self, snapshots: Sequence[Snapshot], *, footer: str = "") -> list[Text]:
        """Return what is shown, cut to the console's width, and to its height if it has one."""
        width, height = max(_NARROWEST, self._console.width), self._height()
        room = None if height is None else max(1, height - bool(footer))
        if len(snapshots) == 1:
            lines = self._one(snapshots[0], width, room)
        else:
            lines = self._several(snapshots, width, room)
        if room is not None:
            lines = lines[:room] + [Text("")] * (room - len(lines))
        lines += [Text(footer, style="dim")] if footer else []
        for line in lines:
            line.rstrip()
            line.truncate(width, overflow="ellipsis")
        return lines

    def _one(self, run: Snapshot, width: int, room: int | None) -> list[Text]:
        head = [_title(run), self._progress(run, width), *_facts(run, width)]
        head += [part for note in _notes(run) for part in _wrapped(note, width)]
        if run.happenings:
            head += [_dated(item.time, item.text) for item in run.happenings[-3:]]
        log = [Text(_shortened(line), style="dim") for line in run.log]
        left = _TALLEST_PLOT + len(log) + 2 if room is None else room - len(head)
        plot: list[Text] = []
        if run.curves and self._unicode and left >= SMALLEST[1] + _FEWEST_LOG_LINES + 2:
            kept = min(len(log), max(_FEWEST_LOG_LINES, left - 2 - _TALLEST_PLOT))
            tall = min(_TALLEST_PLOT, left - 2 - kept)
            plot = [Text(""), *self._picture(run.curves, width, tall, title="loss")]
            left -= len(plot)
        log = log[-max(0, left - 1) :] if left > 1 else []
        return [*head, *plot, *([Text(""), *log] if log else [])]

    def _several(self, runs: Sequence[Snapshot], width: int, room: int | None) -> list[Text]:
        if not runs:
            return [Text("no run yet: watching for the first one", style="dim")]
        tall = room is None or len(runs) * 4 <= room
        if not tall:
            assert room is not None
            lines = [self._row(run, width) for run in runs]
            if len(lines) > room:
                lines = [*lines[: room - 1], Text(f"{len(lines) - room + 1} more", style="dim")]
            return lines
        lines = []
        for run in runs:
            values = "   ".join(f"{name} {value}" for name, value in _values(run) if value)
            lines += [_title(run), self._progress(run, width), Text(f"  {values}"), *_notes(run)]
            lines += [_dated(item.time, item.text) for item in run.happenings[-1:]]
            lines.append(Text(""))
        left = _TALLEST_PLOT if room is None else min(_TALLEST_PLOT, room - len(lines))
        curves = _newest_curves(runs)
        if curves and self._unicode and left >= SMALLEST[1]:
            lines += self._picture(curves, width, left, title="training loss")
        return lines

    def _row(self, run: Snapshot, width: int) -> Text:
        values = "  ".join(f"{name} {value}" for name, value in _values(run)[:4] if value)
        name = run.id if len(run.id) <= width // 3 else f"{run.id[: width // 3 - 1]}…"
        return Text.assemble(
            (f"{name:<{width // 3}} ", "bold"),
            (f"{run.state:<12}", _STATE_STYLES.get(run.state, "")),
            f" {_steps(run)}  {values}",
        )

    def _progress(self, run: Snapshot, width: int) -> Text:
        if run.state == "waiting":
            return Text(run.why)
        text = f" {_steps(run)}"
        if run.epoch is not None:
            text += f", epoch {run.epoch:.2f}"
        if run.share is None:
            return Text(text.strip() if run.step else "preparing: no step yet", style="dim")
        text = f" {run.share:>4.0%} {text}"
        if run.eta_seconds is not None:
            text += f", {duration_text(run.eta_seconds)} left"
        room = max(10, width - len(text))
        filled = round(run.share * room)
        full, empty = ("━", "╌") if self._unicode else ("#", "-")
        style = _STATE_STYLES.get(run.state, "")
        return Text.assemble((full * filled, style), (empty * (room - filled), "dim"), text)

    def _picture(
        self, curves: Mapping[str, Points], width: int, height: int, *, title: str
    ) -> list[Text]:
        """Return the curves as lines; they are drawn again only when something has changed."""
        key = (width, height, [(name, id(points)) for name, points in curves.items()])
        if self._plot[0] != key:
            draw = styled_plot if self._colours else terminal_plot
            spared = 2 if len(curves) > 1 else 0
            drawn = draw(curves, width=width, height=height + spared, title=title, x_label="step")
            text = drawn if isinstance(drawn, Text) else Text(drawn)
            lines = [_merged(line) for line in text.split("\n")]
            if spared:  # the legend says what it is, and what the steps are goes without saying
                lines = [*lines[1:-2], lines[-1]]
            self._plot = (key, lines)
            self._shown = curves  # so that no other curves get the ids of these
        return list(self._plot[1])


def status_line(run: Snapshot) -> str:
    """Return a run on one line of plain text, for a pipe or a terminal that can show no more."""
    when = time.strftime("%H:%M:%S", time.localtime(run.taken))
    left = "" if run.eta_seconds is None else f"{duration_text(run.eta_seconds)} left"
    values = [f"{name} {value}" for name, value in _values(run) if value]
    why = run.why if run.state != "running" else ""
    starts = f" (start {run.starts})" if run.starts > 1 else ""
    parts = [f"{when} {run.id} {run.state}{starts}", why, _steps(run), left, *values]
    return printable_line("  ".join(part for part in parts if part))


def _steps(run: Snapshot) -> str:
    if not run.total_steps:
        return f"step {run.step:,}" if run.step else ""
    return f"step {run.step:,} of {run.total_steps:,}"


def _title(run: Snapshot) -> Text:
    title = Text.assemble((run.id, "bold"), "  ", (run.state, _STATE_STYLES.get(run.state, "")))
    further = []
    if run.attempt > 1:
        further.append(f"attempt {run.attempt}")
    if run.starts > 1:
        further.append(f"start {run.starts}")
    if run.started:
        end = run.taken if run.state == "running" else run.ended or run.updated
        lasted = duration_text((end or run.taken) - run.started)
        further.append(f"for {lasted}" if run.state == "running" else f"took {lasted}")
    if run.ended:
        further.append(f"ended {age_text(run.ended, run.taken)}")
    return title.append("  " + ", ".join(further), style="dim") if further else title


def _values(run: Snapshot) -> list[Fact]:
    """Return the values that belong on one line, the most wanted first."""
    return [
        ("loss", number(run.train_loss)),
        ("val", number(run.val_loss)),
        ("lr", "" if run.lr is None else f"{run.lr:.2e}"),
        ("tokens/s", "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}"),
        ("memory", _memory(run)),
        ("checkpoint", "" if run.last_checkpoint is None else f"{run.last_checkpoint.step:,}"),
        ("uploads", _uploads(run.uploads)),
        ("trackers", _pending(run.pending)),
    ]


def _facts(run: Snapshot, width: int) -> Iterator[Text]:
    """Yield labelled values in as many columns as the width has room for."""
    values = dict(_values(run))
    best = run.best
    share = run.data_share
    found = [
        ("train loss", values["loss"]),
        ("val loss", values["val"]),
        ("best", "" if best is None else f"{best.metric} {number(best.value)}, step {best.step:,}"),
        ("lr", values["lr"]),
        ("tokens/s", values["tokens/s"]),
        ("data wait", "" if share is None else f"{share:.1%} of the time"),
        ("memory", "" if run.process_memory_gb is None else f"{run.process_memory_gb:.2f} GB"),
        ("GPU", _gpu(run)),
        ("checkpoint", _checkpoint(run.last_checkpoint, run.taken)),
        ("best one", _checkpoint(run.best_checkpoint, run.taken)),
        ("uploads", values["uploads"]),
        ("trackers", values["trackers"]),
    ]
    cells = [(label, value) for label, value in found if value]
    columns = max(1, width // _FACT_WIDTH)
    size = width // columns
    line, used = Text(), 0
    for label, value in cells:
        text = Text.assemble((f"{label:<11}", "dim"), value)
        spans = -(-(len(text) + 2) // size)  # a long value takes the place of two
        if used and used + spans > columns:
            yield line
            line, used = Text(), 0
        line.append_text(text)
        used += spans
        line.pad_right(max(0, used * size - len(line)))
    if used:
        yield line


def _notes(run: Snapshot) -> Iterator[Text]:
    if run.why and run.state != "waiting":
        yield Text(printable_line(run.why), style=_STATE_STYLES.get(run.state, ""))
    if run.next_command:
        yield Text.assemble(("next: ", "dim"), printable_line(run.next_command))
    for upload in run.uploads:
        if upload.error:
            text = f"the upload of step {upload.step} failed: {upload.error}"
            yield Text(printable_line(text), style="yellow")


def _shortened(line: str) -> str:
    """Return a line of the log without its date and the level of usual lines."""
    text = _STAMP.sub(r"\g<time> ", line, count=1)
    return printable_line(text)


def _wrapped(line: Text, width: int) -> list[Text]:
    """Return a line over several ones if it has to be: what is to be typed must be whole."""
    return [line[begin : begin + width] for begin in range(0, max(1, len(line)), width)]


def _dated(moment: float, text: str) -> Text:
    when = time.strftime("%H:%M:%S", time.localtime(moment))
    return Text.assemble((f"{when} ", "dim"), (printable_line(text), "magenta"))


def _memory(run: Snapshot) -> str:
    memory = "" if run.process_memory_gb is None else f"{run.process_memory_gb:.1f} GB"
    gpu = _gpu(run)
    return f"{memory}{', GPU ' if memory else ''}{gpu}" if gpu else memory


def _gpu(run: Snapshot) -> str:
    memory = "" if run.gpu_memory_gb is None else f"{run.gpu_memory_gb:.1f} GB"
    busy = "" if run.gpu_percent is None else f"{run.gpu_percent:.0f}% busy"
    return ", ".join(part for part in (memory, busy) if part)


def _checkpoint(found: CheckpointAge | None, now: float) -> str:
    return "" if found is None else f"step {found.step:,}, {age_text(found.created, now)}"


def _uploads(uploads: Sequence[Upload]) -> str:
    """Return how many uploads are in which state, with the bytes of those under way."""
    parts = []
    for state in dict.fromkeys(upload.state for upload in uploads):
        several = [upload for upload in uploads if upload.state == state]
        text = f"{len(several)} {state}"
        if state == "uploading":
            sent = sum(upload.sent for upload in several)
            size = sum(upload.size for upload in several)
            text += f" ({size_text(sent)} of {size_text(size)})"
        parts.append(text)
    return ", ".join(parts)


def _pending(pending: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} wait for {name}" for name, count in pending.items())


def _newest_curves(runs: Sequence[Snapshot]) -> dict[str, Points]:
    with_curve = [run for run in runs if "train/loss" in run.curves]
    return {run.id: run.curves["train/loss"] for run in with_curve[-_MOST_CURVES:]}


def _merged(line: Text) -> Text:
    """Return a line with neighbouring characters of one style in one span, which is much faster."""
    merged = Text()
    plain, spans = line.plain, line.spans
    styles = [""] * len(plain)
    for span in spans:
        styles[span.start : span.end] = [str(span.style)] * (span.end - span.start)
    begin = 0
    for index in range(1, len(plain) + 1):
        if index == len(plain) or styles[index] != styles[begin]:
            merged.append(plain[begin:index], styles[begin] or None)
            begin = index
    return merged
