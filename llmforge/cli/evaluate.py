"""``forge evaluate``: measure a checkpoint on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli.common import echo


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="RUN, RUN@best, RUN@STEP or a path.")
    ],
    split: Annotated[
        str, typer.Option("--split", help="train, validation or test.")
    ] = "validation",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="Weights as fp32, bf16 or auto.")] = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="A .safetensors or .pt file whose weights replace the checkpoint's; the result "
            "is not kept.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", help="Directory of all runs.", show_default=False)
    ] = None,
) -> None:
    """Measure loss, perplexity and bits per byte over a whole split.

    The result is also kept in the run's evaluation.json.
    """
    from llmforge.cli.common import emit_json, error_console, run_root
    from llmforge.evaluation import evaluate_checkpoint, record_evaluation, run_of
    from llmforge.generation import locate
    from llmforge.generation.load import require_device

    require_device(device, dtype)
    found = locate(checkpoint, root=run_root(root), say=error_console().print)
    result = evaluate_checkpoint(
        found,
        split=split,
        device=device,
        dtype=dtype,
        weights=weights,
        notice=error_console().print,
    )
    if as_json:
        emit_json(result)
    else:
        run = run_of(found)
        name = str(found.path) if run is None else f"{run.id}@{found.step}"
        echo(f"{name} on {split} ({result['tokens']:,} tokens)")
        for name, value in result.items():
            if "/" in name:
                echo(f"  {name:<20} {value:.4f}")
    kept = record_evaluation(found, result) if weights is None else None
    if not as_json:
        echo(f"  kept in {kept}" if kept else "  not kept: the weights are not of a run")
