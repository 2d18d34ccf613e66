"""How runs look: the list, one run in full, one run's progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmforge.cli.checkpoint_views import print_checkpoints
from llmforge.cli.render import (
    METRIC_DIGITS,
    STATE_STYLES,
    Column,
    age_text,
    date_text,
    duration_text,
    number,
    plain_value,
    print_section,
    print_table,
    steps_text,
)
from llmforge.courier.notifications import pending_messages
from llmforge.insight.compare import read_recipe
from llmforge.insight.inventory import (
    artifacts_of,
    checkpoints_of,
    pending_of,
    viewers_of,
)
from llmforge.insight.summary import RunSummary, summarize
from llmforge.rundir import RunEntry, completion_of
from llmforge.rundir.deployments import read_deployments
from llmforge.rundir.last_row import last_row
from llmforge.rundir.next_command import next_command, why_ended

if TYPE_CHECKING:
    from rich.console import Console

_UNFINISHED = (
    Column("run", fold=True),
    Column("state", styles=STATE_STYLES),
    Column("step", right=True),
    Column("heartbeat", right=True),
    Column("why", fold=True),
)
_BAR_WIDTH = 30


def print_unfinished(
    console: Console, unfinished: Sequence[RunSummary], counts: Mapping[str, int]
) -> None:
    """Print the runs that are not finished, and how many runs there are in each state."""
    rows = [
        (
            run.id,
            run.state,
            steps_text(run.step, run.total_steps),
            _heartbeat(run.entry),
            why_ended(run.entry),
        )
        for run in unfinished
    ]
    if rows:
        print_table(console, _UNFINISHED, rows)
        console.print()
    console.print(counts_text(counts))


def counts_text(counts: Mapping[str, int]) -> str:
    """Return counts by state on one line."""
    total = sum(counts.values())
    parts = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    return f"{total:,} run{'' if total == 1 else 's'}: {parts}" if total else "no runs"


def print_status(console: Console, entry: RunEntry) -> None:
    """Print how far one run is, its last values, why it ended and what to type next."""
    run = summarize(entry)
    timing = last_row(entry.directory.timing)
    _title(console, run)
    values = {
        "progress": _progress(run),
        "started": _started(run),
        "heartbeat": _heartbeat(entry, process=True),
    }
    if run.state == "running":
        if "tokens_per_second" in timing:
            values["speed"] = f"{number(timing['tokens_per_second'], digits=0)} tokens/s"
        if "eta_seconds" in timing:
            values["left"] = duration_text(timing["eta_seconds"])
    values["ended"] = date_text(run.ended or 0.0)
    values["why"] = why_ended(entry)
    values["trackers"] = _pending(entry, running=run.state == "running")
    values["next"] = next_command(entry)
    print_section(console, "", _present(values))
    print_section(console, "Last metrics", _metrics(run, last_row(entry.directory.metrics)))
    if entry.record.notices:
        print_section(console, "Notices", _numbered(entry.record.notices))


def print_run(console: Console, entry: RunEntry) -> None:
    """Print everything that is known of one run."""
    run, record, directory = summarize(entry), entry.record, entry.directory
    _title(console, run)
    print_section(console, "", _present(dict(_overview(run))))
    keys = record.identity.get("keys", {})
    named = {name: plain_value(value) for name, value in keys.items()}
    print_section(console, f"Identity {record.identity.get('hash', '')[:12]}", named)
    print_section(console, "Metrics", _metrics(run, {}))
    apart = ("reasons", "kernels")
    resolved = {name: value for name, value in record.resolved.items() if name not in apart}
    print_section(console, "Resolved automatically", _plain(_rounded(resolved)))
    print_section(console, "Kernels", _kernels(record.resolved.get("kernels", {})))
    reasons = record.resolved.get("reasons", [])
    print_section(console, "Reasons", _numbered(reasons))
    print_section(console, "Fingerprints", _plain(record.fingerprints))
    print_section(console, "Goodput", _plain(record.goodput))
    print_section(console, "Provenance", _present(dict(_provenance(record.provenance))))
    print_section(console, "Notices", _numbered(record.notices))
    print_checkpoints(console, checkpoints_of(directory), title="Checkpoints")
    recipe = {} if entry.problem else read_recipe(directory)
    artifacts = {name: str(path) for name, path in artifacts_of(directory, recipe).items()}
    print_section(console, "Artifacts", artifacts)
    print_section(console, "Trackers", viewers_of(directory, recipe))
    deployed = {
        item.to: f"{'' if item.step is None else f'step {item.step:,}, '}{item.revision}"
        for item in read_deployments(directory)
    }
    print_section(console, "Deployed to", deployed)
    print_section(console, "Completion", _present(dict(_completion(entry))))


def run_json(entry: RunEntry) -> dict[str, Any]:
    """Return everything that is known of one run as ``--json`` prints it."""
    import dataclasses

    completion = None if entry.problem else completion_of(entry.directory)
    recipe = {} if entry.problem else read_recipe(entry.directory)
    return {
        **summarize(entry).as_json(),
        "record": dataclasses.asdict(entry.record),
        "recipe": recipe,
        "checkpoints": [dataclasses.asdict(info) for info in checkpoints_of(entry.directory)],
        "artifacts": artifacts_of(entry.directory, recipe),
        "viewers": viewers_of(entry.directory, recipe),
        "deployments": [dataclasses.asdict(item) for item in read_deployments(entry.directory)],
        "completion": None if completion is None else dataclasses.asdict(completion),
        "next_command": next_command(entry),
    }


def status_json(entry: RunEntry) -> dict[str, Any]:
    """Return the progress of one run as ``--json`` prints it."""
    return {
        **summarize(entry).as_json(),
        "heartbeat": entry.record.heartbeat,
        "last_metrics": last_row(entry.directory.metrics),
        "last_timing": last_row(entry.directory.timing),
        "why": why_ended(entry),
        "pending_events": _pending_events(entry),
        "next_command": next_command(entry),
    }


def _title(console: Console, run: RunSummary) -> None:
    from rich.text import Text

    title = Text(run.id, style="bold")
    title.append(f"  {run.state}", style=STATE_STYLES.get(run.state, ""))
    console.print(title, soft_wrap=True)


def _overview(run: RunSummary) -> Iterator[tuple[str, str]]:
    record = run.entry.record
    yield "why", why_ended(run.entry)
    yield "name", "" if record.name == run.id else record.name
    yield "note", run.entry.note
    yield "progress", _progress(run)
    yield "started", _started(run)
    yield "ended", date_text(run.ended or 0.0)
    yield "took", duration_text(run.duration)
    yield "heartbeat", _heartbeat(run.entry, process=True)
    if not run.entry.problem:
        yield "attempt", f"{record.attempt}, started {_times(record.restarts)}"
    yield "profile", record.profile or ""
    yield "tags", ", ".join(record.tags)
    yield "directory", f"{run.entry.directory.path}{_lost(run.entry)}"
    yield "next", next_command(run.entry)


def _lost(entry: RunEntry) -> str:
    if not entry.gone:
        return ""
    return " (holds no run.json)" if entry.directory.path.exists() else " (gone)"


def _provenance(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if name == "git" and isinstance(value, Mapping):
            changed = value.get("changed") or {}
            dirty = f", changed: {', '.join(changed)}" if changed else ""
            yield name, f"{str(value.get('commit', ''))[:12]}{dirty}"
        elif name == "command" and isinstance(value, list):
            yield name, " ".join(map(str, value))
        else:
            yield name, plain_value(value)


def _completion(entry: RunEntry) -> Iterator[tuple[str, str]]:
    completion = None if entry.problem else completion_of(entry.directory)
    if completion is None:
        return
    yield "state", completion.state
    yield "why", completion.reason
    yield "steps", f"{completion.steps:,}"
    yield "final loss", number(completion.final_loss)
    yield "best loss", number(completion.best_loss)
    yield "best step", number(completion.best_step)
    yield "ended", date_text(completion.ended)
    yield from completion.artifacts.items()
    yield "next", completion.next_command


def _metrics(run: RunSummary, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of the last row over those of the record, the best one last."""
    stored = run.entry.record.metrics
    values = {**stored, **row}
    shown = {
        name: number(value, digits=METRIC_DIGITS.get(name, 4))
        for name, value in values.items()
        if isinstance(value, int | float)
    }
    best = stored.get("best")
    if best:
        shown["best"] = f"{best['metric']} {number(best['value'])} at step {best['step']:,}"
    return shown


def _progress(run: RunSummary) -> str:
    if run.entry.problem:
        return ""
    if not run.total_steps:
        return f"{run.step:,} steps"
    share = min(1.0, run.step / run.total_steps)
    filled = round(share * _BAR_WIDTH)
    bar = "━" * filled + "╌" * (_BAR_WIDTH - filled)
    return f"{bar} {run.step:,} of {run.total_steps:,} steps, {share:.0%}"


def _started(run: RunSummary) -> str:
    age = age_text(run.started)
    return f"{date_text(run.started)} ({age})" if age.endswith("ago") else date_text(run.started)


def _pending_events(entry: RunEntry) -> dict[str, int]:
    gone = entry.gone or entry.problem
    if gone:
        return {}
    waiting = pending_of(entry.directory, read_recipe(entry.directory))
    return waiting | pending_messages(entry.directory)


def _pending(entry: RunEntry, *, running: bool) -> str:
    """Return which trackers lack events and how they get them; empty when none does."""
    waiting = _pending_events(entry)
    if not waiting:
        return ""
    counts = ", ".join(f"{count:,} events wait for {name}" for name, count in waiting.items())
    return counts if running else f"{counts}: forge runs sync {entry.directory.id}"


def _times(count: int) -> str:
    return "once" if count <= 1 else f"{count} times"


def _heartbeat(entry: RunEntry, *, process: bool = False) -> str:
    beat = entry.record.heartbeat
    if not beat.get("time") or entry.state not in ("running", "crashed"):
        return ""
    who = f", process {beat.get('pid')} on {beat.get('host')}" if process else ""
    return f"{age_text(float(beat['time']))}{who}"


def _present(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _kernels(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return how each part is computed, with the milliseconds of each way."""
    if not kept.get("chosen"):
        return {}
    found = {"machine": str(kept["machine"])}
    for name, way in kept["chosen"].items():
        times = ", ".join(
            f"{each} {took:.3g} ms" for each, took in kept["milliseconds"][name].items()
        )
        found[name] = f"{way} ({times})"
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    return _present({name: plain_value(value) for name, value in values.items()})


def _rounded(value: Any) -> Any:
    """Return what was measured with as many digits as a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return value


def _numbered(texts: Sequence[str]) -> dict[str, str]:
    return {f"{index}.": text for index, text in enumerate(texts, start=1)}
