"""``forge checkpoints``: what a run has saved."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Look at checkpoints.")


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command("list")
def list_saved(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or its beginning.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read and hash every file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", help="Directory of all runs.", show_default=False)
    ] = None,
) -> None:
    """List the checkpoints of a run."""
    from llmforge import checkpoint
    from llmforge.cli.common import emit_json, run_root
    from llmforge.rundir import find_run

    directory = find_run(run_root(root), run)
    rows: list[dict[str, Any]] = [
        {
            "step": item.step,
            "best": item.is_best,
            "size": item.manifest.size,
            "created": item.manifest.created,
            "problems": checkpoint.verify(item.path, hashes=verify),
            "path": str(item.path),
        }
        for item in checkpoint.list_checkpoints(directory.checkpoints)
    ]
    if as_json:
        emit_json(rows)
        return
    if not rows:
        typer.echo(f"{directory.id} has no checkpoint yet")
    for row in rows:
        created = datetime.fromisoformat(str(row["created"])).astimezone()
        state = "damaged: " + "; ".join(row["problems"]) if row["problems"] else "ok"
        mark = "best" if row["best"] else ""
        typer.echo(
            f"step {row['step']:>8}  {mark:<5} {row['size'] / 1e6:>9.1f} MB  "
            f"{created:%Y-%m-%d %H:%M:%S}  {state}"
        )
