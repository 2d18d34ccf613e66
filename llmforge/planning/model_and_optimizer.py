"""The parts of a recipe that decide about memory, built without data or a run directory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.errors import UsageError
from llmforge.interfaces import LanguageModel, Objective, RunContext
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Recipe
from llmforge.run.plan import make_plan
from llmforge.run.setup.model_build import adapted


@dataclass(frozen=True)
class _Vocabulary:
    """All that a model may ask of a tokenizer when no text is there."""

    vocab_size: int


def vocabulary_size(recipe: Recipe) -> int:
    """Return the size of the vocabulary: as data or tokenizer say, or of a ready tokenizer.

    Raises:
        UsageError: only the data could tell.
        ForgeError: a ready tokenizer cannot be loaded.
    """
    for kind in ("data", "tokenizer"):
        size = getattr(recipe.selected(kind).options, "vocab_size", None)
        if size is not None:
            return int(size)
    name = recipe.selected("tokenizer").name
    if "no_text" not in load("tokenizer", name).supports:
        raise UsageError(
            f"the vocabulary of tokenizer '{name}' is known only with its data",
            remedy="give it: --vocab-size N",
        )
    tokenizer = _built(recipe, "tokenizer", "forge_build_tokenizer", data=None)
    return int(tokenizer.vocab_size)


def build_model(recipe: Recipe, vocabulary: int) -> LanguageModel:
    """Return the recipe's model over ``vocabulary`` tokens, with its adapter."""
    chosen = [recipe.selected("model"), *recipe.selections.get("adapter", ())]
    manager = build_manager([load(item.kind, item.name)(item.options) for item in chosen])
    run = _context(recipe)
    model: LanguageModel = call_factory(
        manager, "forge_build_model", run=run, tokenizer=_Vocabulary(vocabulary)
    )
    return adapted(manager, run, model)


def sequences_of_a_row(recipe: Recipe) -> int:
    """Return how many sequences the recipe's objective makes of an example."""
    found: Objective = _built(recipe, "objective", "forge_build_objective")
    return found.sequences


def build_optimizer(recipe: Recipe, parameters: Sequence[tuple[str, Any]]) -> Any:
    """Return the recipe's optimizer over ``parameters`` by name."""
    return _built(recipe, "optimizer", "forge_build_optimizer", parameters=list(parameters))


def _built(recipe: Recipe, kind: str, hook: str, **arguments: Any) -> Any:
    selection = recipe.selected(kind)
    manager = build_manager([load(kind, selection.name)(selection.options)])
    return call_factory(manager, hook, run=_context(recipe), **arguments)


def _context(recipe: Recipe) -> RunContext:
    return make_plan(recipe).context(resolved={}, notice=logging.getLogger(__name__).info)
