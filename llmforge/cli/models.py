"""``forge models``: the models there are, with true sizes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

app = typer.Typer(no_args_is_help=True, help="Models and their presets.")


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command("list")
def list_models(
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=2, help="Vocabulary to count parameters for.")
    ] = 4096,
    as_json: options.AsJson = False,
) -> None:
    """List every model's presets: layers, width and true parameter counts."""
    from llmforge.cli.common import emit_json
    from llmforge.plugins import entries, load

    rows: list[dict[str, Any]] = []
    for name in sorted(entries("model")):
        # A model that has presets says so by a class method; see docs/how-to/write-a-plugin.md.
        describe = getattr(load("model", name), "presets", None)
        presets = describe(vocab_size=vocab_size) if describe else {"": {}}
        rows += [{"model": name, "preset": preset, **sizes} for preset, sizes in presets.items()]
    if as_json:
        emit_json(rows)
        return
    echo(f"parameters with a vocabulary of {vocab_size:,} (--vocab-size changes it)\n")
    echo(
        f"{'model':<14}{'preset':<10}{'layers':>7}{'width':>7}{'heads':>7}{'parameters':>15}"
        f"{'in blocks':>15}"
    )
    for row in rows:
        counts = (row.get(key) for key in ("parameters", "parameters_in_blocks"))
        shown = "".join(f"{'' if count is None else format(count, ','):>15}" for count in counts)
        echo(
            f"{row['model']:<14}{row['preset']:<10}{row.get('layers', ''):>7}"
            f"{row.get('width', ''):>7}{row.get('heads', ''):>7}{shown}".rstrip()
        )
