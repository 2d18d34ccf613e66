"""``forge export``: a checkpoint in a form that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="RUN, RUN@best, RUN@STEP or a path.", show_default=False
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Write the weights to FILE.safetensors.",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="WHICH",
            help="best, last or a step; without it the best, else the last.",
            show_default=False,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Write the whole model, with the weights of an adapter added to it."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Write a checkpoint's weights as one safetensors file.

    Any checkpoint will do, also one that several ranks wrote in slices; the file is the same.
    'forge generate RUN --weights FILE' and the safetensors library read it. Of a run with an
    adapter or frozen weights it has what was trained, and with --merge the whole model.
    """
    from llmforge.checkpoint import size_text
    from llmforge.cli.common import emit_json, error_console, run_root
    from llmforge.errors import UsageError
    from llmforge.export import export_merged, export_weights
    from llmforge.generation import locate

    if checkpoint is not None and "@" in run:
        raise UsageError(
            f"'{run}' and --checkpoint both say which checkpoint", remedy="give only one of them"
        )
    address = run if checkpoint is None else f"{run}@{checkpoint}"
    found = locate(address, root=run_root(root), say=error_console().print)
    if merge:
        entry = export_merged(found, weights, overwrite=force, notice=error_console().print)
    else:
        entry = export_weights(found, weights, overwrite=force)
    if as_json:
        told = {"file": str(weights), "size": entry.size, "sha256": entry.sha256}
        emit_json({**told, "step": found.step, "checkpoint": str(found.path)})
        return
    part = ""
    if found.manifest.frozen is not None and not merge:
        part = f"; without the {found.manifest.frozen.parameters:,} frozen ones (--merge adds them)"
    echo(f"{weights}: the weights of step {found.step}, {size_text(entry.size)}{part}")
