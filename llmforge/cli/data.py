"""``forge data``: data ahead of training, prepared and looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

_PATHS_SHOWN = 3

app = typer.Typer(no_args_is_help=True, help="Prepare data, and see what is learned of it.")


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command()
def prepare(
    recipe: options.Recipe,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    samples: options.Samples = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash all of what is in the cache already.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Download and tokenise the data of RECIPE, so that training starts at once."""
    from llmforge.cli.common import emit_json
    from llmforge.progress import size_text
    from llmforge.recipe import load_recipe
    from llmforge.run.setup.build import prepare_ahead

    overrides = options.recipe_overrides(
        recipe, profile=profile, assignments=assignments, samples=samples
    )
    loaded = load_recipe(recipe, profile=profile, overrides=overrides)
    report = prepare_ahead(
        loaded, notice=lambda text: echo(f"notice: {text}", err=True), verify=verify
    )
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


@app.command()
def show(
    recipe: options.Recipe,
    count: Annotated[int, typer.Option("-n", min=0, help="Examples to show.")] = 3,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what RECIPE would learn of its examples: text that is not learned is dimmed.

    With it come, for each split, the share of tokens that are learned, lengths, and examples that
    are cut, left out, there twice or in the training split too.
    """
    from llmforge.cli.common import console, emit_json, error_console
    from llmforge.cli.data_views import print_examples, print_splits
    from llmforge.data.audit import audit
    from llmforge.data.example_rows import ExampleSplit
    from llmforge.errors import UsageError
    from llmforge.recipe import load_recipe
    from llmforge.run.setup.build import data_ahead
    from llmforge.run.setup.example_packing import packing_line, rows_in_numbers

    overrides = options.recipe_overrides(recipe, profile=profile, assignments=assignments)
    loaded = load_recipe(recipe, profile=profile, overrides=overrides)
    with data_ahead(loaded, notice=error_console().print) as (run, prepared):
        splits = {
            name: found
            for name, found in prepared.splits.items()
            if isinstance(found, ExampleSplit)
        }
        if not splits:
            raise UsageError(
                f"{recipe} trains on running text, all of which is learned",
                remedy=f"its size: forge data prepare {recipe}",
            )
        if split not in splits:
            raise UsageError(f"the data has no split '{split}'", remedy=" or ".join(splits))
        audits = audit(splits, prepared.tokenizer)
        if as_json:
            shown = {name: found.as_json() for name, found in audits.items()}
            shown["train"]["rows"] = rows_in_numbers(prepared, micro=run.train.batch_size)
            emit_json(shown)
            return
        out = console()
        out.print(f"{prepared.data.description}; vocabulary {prepared.tokenizer.vocab_size:,}")
        print_splits(out, audits)
        if packing := packing_line(prepared, run, micro=run.train.batch_size):
            out.print(packing)
        print_examples(out, prepared.tokenizer, splits[split], labels=prepared.labels, count=count)
