"""``forge data``: get and tokenise data ahead of training."""

from __future__ import annotations

from typing import Annotated

import typer

from llmforge.cli import shortcuts
from llmforge.cli.common import echo

_PATHS_SHOWN = 3

app = typer.Typer(no_args_is_help=True, help="Download and tokenise data.")


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command()
def prepare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file or name.")],
    profile: shortcuts.Profile = None,
    assignments: shortcuts.Assignments = None,
    samples: shortcuts.Samples = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Download and tokenise the data of RECIPE, so that training starts at once."""
    from llmforge.checkpoint.hashed_files import size_text
    from llmforge.cli.common import emit_json
    from llmforge.recipe import load_recipe
    from llmforge.run.setup.build import prepare_ahead

    overrides = shortcuts.overrides(
        recipe, profile=profile, assignments=assignments, samples=samples
    )
    loaded = load_recipe(recipe, profile=profile, overrides=overrides)
    report = prepare_ahead(loaded, notice=lambda text: echo(f"notice: {text}", err=True))
    if as_json:
        emit_json(report)
        return
    echo(f"{report['data']}; fingerprint {report['fingerprint'][:16]}")
    echo(f"cache {report['cache']}; vocabulary {report['vocab_size']:,}")
    for name, split in report["splits"].items():
        echo(
            f"  {name:<11} {split['tokens']:>12,} tokens  {_text_size(split['bytes'])}  "
            f"{split['documents']:>6,} documents"
        )
        for path in split["paths"][:_PATHS_SHOWN]:
            echo(f"  {'':<11} {path}")
        if (more := len(split["paths"]) - _PATHS_SHOWN) > 0:
            echo(f"  {'':<11} and {more} more")
        echo(f"  {'':<11} {size_text(split['size'])}")


def _text_size(size: int | None) -> str:
    return "text not known" if size is None else f"{size:>12,} bytes of text"
