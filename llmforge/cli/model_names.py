"""Models by a name of one word, whichever component runs them: what each is, and what selects it.

A model component offers them by a class method ``presets(vocab_size)``; see
``docs/how-to/write-a-plugin.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmforge.errors import UsageError

if TYPE_CHECKING:
    from llmforge.recipe import Override, Recipe

_FLAG = "--model"
_OBJECTIVES = ("next_token", "seq2seq", "mlm", "classify")
"""Objectives by what they ask of data, the least first; each is called as the form it trains."""
_NOT_FACTS = ("name", "settings", "own_tokenizer")


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A preset of a model component.

    Attributes:
        name: the word it goes by, in any recipe.
        component: the model component that offers it.
        preset: what that component itself calls it.
        facts: layers, width, parameters and what else is known of it.
        settings: recipe keys that select it, with their values.
        own_tokenizer: the tokenizer to choose where the recipe's comes with another model.
    """

    name: str
    component: str
    preset: str
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    own_tokenizer: str | None = None


def models_of(component: str, *, vocab_size: int) -> list[NamedModel] | None:
    """Return the presets of a model component, None when it has no such thing.

    Raises:
        PluginError: the component cannot be loaded.
    """
    from llmforge.plugins import load

    describe = getattr(load("model", component), "presets", None)
    if describe is None:
        return None
    return [
        NamedModel(
            name=facts.get("name", preset),
            component=component,
            preset=preset,
            facts={key: value for key, value in facts.items() if key not in _NOT_FACTS},
            settings=facts.get("settings", {f"model.{component}.preset": preset}),
            own_tokenizer=facts.get("own_tokenizer"),
        )
        for preset, facts in describe(vocab_size=vocab_size).items()
    ]


def all_models(*, vocab_size: int) -> Iterator[NamedModel]:
    """Yield every model there is by name; a component without presets is one itself."""
    from llmforge.plugins import entries

    for component in sorted(entries("model")):
        found = models_of(component, vocab_size=vocab_size)
        if found is None:
            yield NamedModel(name="", component=component, preset="", facts={}, settings={})
        yield from found or ()


def model_overrides(name: str, recipe: Recipe) -> list[Override]:
    """Return what ``--model NAME`` sets in a recipe.

    Presets of the recipe's own model come first, by either of their names; then models of other
    components, by the name that is theirs everywhere.

    Raises:
        UsageError: nothing is called so.
    """
    own = recipe.selected("model").name
    offered = models_of(own, vocab_size=_ANY_VOCABULARY)
    if offered is None:
        return [_override(f"model.{own}.preset", name)]
    for item in offered:
        if name in (item.preset, item.name):
            return [_override(key, value) for key, value in item.settings.items()]
    everything = list(all_models(vocab_size=_ANY_VOCABULARY))
    for item in everything:
        if name == item.name and item.component != own:
            return _other_component(item, recipe)
    raise UsageError(
        f"{_FLAG}: there is no model '{name}'",
        remedy=_near(name, [*(item.preset for item in offered), *(i.name for i in everything)]),
    )


_ANY_VOCABULARY = 4096
"""Names do not depend on it."""


def _other_component(item: NamedModel, recipe: Recipe) -> list[Override]:
    from llmforge.plugins import load

    settings = {"model.name": item.component, **item.settings}
    follows = "from_model" in load("tokenizer", recipe.selected("tokenizer").name).supports
    if item.own_tokenizer and follows:
        settings["tokenizer.name"] = item.own_tokenizer
    if objective := _another_objective(item.component, recipe):
        settings.setdefault("objective.name", objective)
    return [_override(key, value) for key, value in settings.items()]


def _another_objective(component: str, recipe: Recipe) -> str | None:
    """Return the objective to choose where the recipe's is not for such models, else None."""
    from llmforge.interfaces import FORMS
    from llmforge.plugins import load

    supports = load("model", component).supports
    made_for = supports & FORMS or {_OBJECTIVES[0]}
    if load("objective", recipe.selected("objective").name).supports & (made_for | supports):
        return None
    return objective_of(component)


def objective_of(component: str) -> str | None:
    """Return the objective that a model component trains best without more being asked."""
    from llmforge.interfaces import FORMS
    from llmforge.plugins import load

    made_for = load("model", component).supports & FORMS or {_OBJECTIVES[0]}
    return next((name for name in _OBJECTIVES if name in made_for), None)


def _override(key: str, value: Any) -> Override:
    from llmforge.recipe import Override
    from llmforge.recipe.toml import parse_key

    return Override(tuple(parse_key(key)), value, origin=_FLAG)


def _near(name: str, names: list[str]) -> str:
    from llmforge.options import closest

    near = closest(name, names)
    return f"did you mean '{near}'?" if near else "'forge models list' shows them all"
