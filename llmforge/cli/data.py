"""``forge data``: get and tokenise data ahead of training."""

from __future__ import annotations

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

_PATHS_SHOWN = 3

app = typer.Typer(no_args_is_help=True, help="Download and tokenise data.")


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command()
def prepare(
    recipe: options.Recipe,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    samples: options.Samples = None,
    as_json: options.AsJson = False,
) -> None:
    """Download and tokenise the data of RECIPE, so that training starts at once."""
    from llmforge.checkpoint.hashed_files import size_text
    from llmforge.cli.common import emit_json
    from llmforge.recipe import load_recipe
    from llmforge.run.setup.build import prepare_ahead

    overrides = options.recipe_overrides(
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
