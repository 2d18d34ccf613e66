"""``forge models``: the models there are, with true sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import echo
from llmforge.cli.model_names import NamedModel, all_models, objective_of

app = typer.Typer(no_args_is_help=True, help="Models by name, and the presets of components.")

VocabSize = Annotated[
    int, typer.Option("--vocab-size", min=2, help="Vocabulary to count parameters for.")
]


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command("list")
def list_models(vocab_size: VocabSize = 4096, as_json: options.AsJson = False) -> None:
    """List every model by the name that --model takes: layers, width and true parameter counts."""
    from llmforge.cli.common import emit_json

    found = list(all_models(vocab_size=vocab_size))
    if as_json:
        emit_json([_row(item) for item in found])
        return
    echo(
        f"parameters of models without a vocabulary of their own are for {vocab_size:,} tokens "
        "(--vocab-size changes it)\n"
    )
    echo(
        f"{'name':<16}{'model':<13}{'layers':>7}{'width':>7}{'heads':>7}{'parameters':>15}"
        f"{'in blocks':>15}  licence"
    )
    for item in found:
        facts = item.facts
        counts = (facts.get(key) for key in ("parameters", "parameters_in_blocks"))
        shown = "".join(f"{'' if count is None else format(count, ','):>15}" for count in counts)
        echo(
            f"{item.name:<16}{runs_it(item):<13}{facts.get('layers', ''):>7}"
            f"{facts.get('width', ''):>7}{facts.get('heads', ''):>7}{shown}"
            f"  {facts.get('licence', '')}".rstrip()
        )
    echo("\n'forge models show NAME' says more; 'forge train RECIPE --model NAME' trains one")


@app.command("show")
def show_model(
    name: Annotated[str, options.argument("NAME", "A name that 'forge models list' shows.")],
    vocab_size: VocabSize = 4096,
    as_json: options.AsJson = False,
) -> None:
    """Show what is known of a model: sizes, tokenizer, licence, source, and what selects it."""
    from llmforge.cli.common import emit_json
    from llmforge.errors import UsageError
    from llmforge.options import closest

    found = {item.name: item for item in all_models(vocab_size=vocab_size) if item.name}
    found |= {item.preset: item for item in found.values() if item.preset not in found}
    item = found.get(name)
    if item is None:
        near = closest(name, found)
        raise UsageError(
            f"there is no model '{name}'",
            remedy=f"did you mean '{near}'?" if near else "'forge models list' shows them all",
        )
    settings = dict(item.settings)
    if objective := objective_of(item.component):
        settings.setdefault("objective.name", objective)
    if as_json:
        emit_json({**_row(item), "settings": settings})
        return
    values: dict[str, str] = {
        key.replace("_", " "): _text(value) for key, value in item.facts.items() if key != "model"
    }
    values["model"] = runs_it(item)
    width = max(map(len, values)) + 2
    echo(item.name + "\n")
    for key, text in values.items():
        echo(f"  {key:<{width}}{text}")
    echo("\n  in a recipe")
    for key, value in settings.items():
        echo(f"    {key} = {_toml(value)}")


def runs_it(item: NamedModel) -> str:
    """Return the model component that runs it."""
    return str(item.facts.get("model", item.component))


def _row(item: NamedModel) -> Mapping[str, Any]:
    named = {"model": runs_it(item), "preset": item.preset}
    return {**item.facts, **named, "name": item.name}


def _text(value: Any) -> str:
    return format(value, ",") if isinstance(value, int) else str(value)


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
