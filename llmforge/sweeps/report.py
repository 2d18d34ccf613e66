"""One page about a sweep: pictures and a table of trials in a single HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmforge.rundir.atomic import write_text
from llmforge.sweeps.summary import Summary, as_row
from llmforge.sweeps.sweep import Sweep
from llmforge.sweeps.trials import Trial

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 90rem;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.muted { color: #666; } code { font: 13px ui-monospace, monospace; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); }
img { width: 100%; border: 1px solid #e4e4e4; border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #e4e4e4; }
th { color: #666; font-weight: 600; } td.number { text-align: right;
  font-variant-numeric: tabular-nums; }
tr.best { background: #fdf1ea; font-weight: 600; }
.completed { color: #2a7a4b; } .pruned, .waiting { color: #8a6d00; } .failed { color: #aa3355; }
.running { color: #4477aa; } td.why { white-space: normal; min-width: 16rem; color: #666; }
"""


def write_report(
    sweep: Sweep, trials: Sequence[Trial], summary: Summary, pictures: Sequence[Path]
) -> Path:
    """Write the page; it needs nothing beside itself. Returns the file."""
    title = html.escape(sweep.id)
    images = "\n".join(
        f'<img alt="{path.stem}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        for path in pictures
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{_lead(sweep, summary)}
<div class="pictures">
{images}
</div>
<h2>Trials</h2>
<div class="scroll">{_table(sweep, trials, summary)}</div>
</body>
</html>
"""
    write_text(sweep.directory.report, page)
    return sweep.directory.report


def _lead(sweep: Sweep, summary: Summary) -> str:
    keys = sweep.recipe.sweep
    counts = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items()))
    sweeper = sweep.recipe.selected("sweep").name
    lines = [
        f"{sweeper}, {keys.direction} {keys.metric}; {counts}; "
        f"{summary.seconds / 60:.1f} minutes of training"
    ]
    text = "".join(f'<p class="muted">{html.escape(line)}</p>' for line in lines)
    if summary.best is None or summary.best_trial is None:
        return text
    spread = "" if summary.spread is None else f" ± {summary.spread:.4f} over its seeds"
    values = ", ".join(
        f"{key} = {_shown(value)}"
        for key, value in sweep.space.with_ties(summary.best.parameters).items()
    )
    return (
        f"{text}<p>Best: <b>{summary.best.value:.4f}</b>{spread} with "
        f"<code>{html.escape(values)}</code><br>"
        f'<span class="muted">train it:</span> '
        f"<code>forge train {html.escape(str(sweep.directory.best))}</code></p>"
    )


def _table(sweep: Sweep, trials: Sequence[Trial], summary: Summary) -> str:
    keys = [item.key for item in (*sweep.space.dimensions,)] + [tie.key for tie in sweep.space.ties]
    names = ["trial", "state", *keys, sweep.recipe.sweep.metric, "step", "seconds", "run", "why"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "\n".join(_row(sweep, trial, keys, summary) for trial in trials)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _row(sweep: Sweep, trial: Trial, keys: Sequence[str], summary: Summary) -> str:
    row = as_row(trial, sweep.space)
    name = str(trial.number) if not trial.repeat else f"{trial.number}.{trial.repeat}"
    best = summary.best is not None and trial.number == summary.best.number
    cells = [f"<td>{name}</td>", f'<td class="{trial.state}">{trial.state}</td>']
    numbers = [row["parameters"].get(key) for key in keys]
    numbers += [row["value"], row["steps"], row["seconds"]]
    cells += [f'<td class="number">{html.escape(_shown(value))}</td>' for value in numbers]
    cells.append(f"<td><code>{html.escape(row['run'])}</code></td>")
    why = "reused: an equal run was complete" if row["reused"] else row["reason"]
    cells.append(f'<td class="why">{html.escape(why)}</td>')
    return f"{'<tr class=best>' if best else '<tr>'}{''.join(cells)}</tr>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
