"""``forge export``: a checkpoint in a form that others read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

if TYPE_CHECKING:
    from llmforge.checkpoint import Checkpoint

_FOLDER = "A folder (--to)"


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="RUN, RUN@best, RUN@STEP or a path.", show_default=False
        ),
    ],
    to: Annotated[
        Path | None, options.option("--to", metavar="DIR", help="Write the folder DIR.")
    ] = None,
    weights: Annotated[
        Path | None,
        options.option(
            "--weights", metavar="FILE", help="Write the weights alone to FILE.safetensors."
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="hf: what transformers reads; safetensors: the weights under their own names; "
            "gguf: what llama.cpp reads.",
            rich_help_panel=_FOLDER,
        ),
    ] = "hf",
    dtype: Annotated[
        str | None,
        options.option(
            "--dtype",
            metavar="FORMAT",
            help="Number format of the weights: fp32 (without it), bf16 or fp16; for gguf also "
            "q8_0.",
            panel=_FOLDER,
        ),
    ] = None,
    max_shard_size: Annotated[
        str,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Largest file of weights, such as 500MB.",
            rich_help_panel=_FOLDER,
        ),
    ] = "5GB",
    checkpoint: options.WhichCheckpoint = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Write the whole model, with the weights of an adapter added to it."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Write a checkpoint as a folder for other programs, or its weights as one file.

    --to DIR writes a folder with the model, its tokenizer, the recipe, metrics and a model card.
    AutoModel.from_pretrained(DIR) of transformers reads it. Any checkpoint will do, also one that
    several ranks wrote in slices. Of a run with an adapter the folder has the adapter as peft
    reads it, and with --merge the whole model.

    --weights FILE writes one safetensors file with the weights under their own names, which
    'forge generate RUN --weights FILE' and the safetensors library read.
    """
    from llmforge.cli.common import error_console, run_root
    from llmforge.errors import UsageError
    from llmforge.generation import locate

    if (to is None) == (weights is None):
        raise UsageError("give one of --to DIR and --weights FILE")
    if weights is not None and (layout != "hf" or dtype is not None):
        raise UsageError(
            "--format and --dtype are of a folder: --weights writes the weights as they are",
            remedy="give --to DIR instead",
        )
    if checkpoint is not None and "@" in run:
        raise UsageError(
            f"'{run}' and --checkpoint both say which checkpoint", remedy="give only one of them"
        )
    address = run if checkpoint is None else f"{run}@{checkpoint}"
    found = locate(address, root=run_root(root), say=error_console().print)
    if to is not None:
        choices = {"layout": layout, "merge": merge, "dtype": dtype, "overwrite": force}
        _export_folder(found, to, as_json=as_json, max_shard_size=max_shard_size, **choices)
    elif weights is not None:
        _export_file(found, weights, merge=merge, overwrite=force, as_json=as_json)


def _export_folder(
    found: Checkpoint, to: Path, *, as_json: bool, max_shard_size: str, **choices: Any
) -> None:
    from llmforge.checkpoint import size_text
    from llmforge.cli.common import emit_json, error_console
    from llmforge.export import export_folder, parse_size

    exported = export_folder(
        found,
        to,
        max_shard_size=parse_size(max_shard_size),
        notice=lambda text: error_console().print(text, style="yellow"),
        **choices,
    )
    if as_json:
        files = {name: vars(entry) for name, entry in exported.files.items()}
        emit_json({"folder": str(to), "files": files, **_of(found)})
        return
    echo(f"{to}: step {found.step}, {len(exported.files)} files, {size_text(exported.size)}")


def _export_file(
    found: Checkpoint, weights: Path, *, merge: bool, overwrite: bool, as_json: bool
) -> None:
    from llmforge.checkpoint import size_text
    from llmforge.cli.common import emit_json, error_console
    from llmforge.export import export_merged, export_weights

    if merge:
        entry = export_merged(found, weights, overwrite=overwrite, notice=error_console().print)
    else:
        entry = export_weights(found, weights, overwrite=overwrite)
    if as_json:
        told = {"file": str(weights), "size": entry.size, "sha256": entry.sha256}
        emit_json({**told, **_of(found)})
        return
    part = ""
    if found.manifest.frozen is not None and not merge:
        part = f"; without the {found.manifest.frozen.parameters:,} frozen ones (--merge adds them)"
    echo(f"{weights}: the weights of step {found.step}, {size_text(entry.size)}{part}")


def _of(found: Checkpoint) -> dict[str, Any]:
    return {"step": found.step, "checkpoint": str(found.path)}
