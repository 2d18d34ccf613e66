"""The rules of a component, enforced when its class is defined."""

from __future__ import annotations

import sys
import types

import pytest

from llmforge import Component, Options, hookimpl
from llmforge.component import KINDS
from llmforge.errors import PluginError
from llmforge.hookspecs import HOOK_PREFIX
from llmforge.options import MACHINE, SAFE


def define(kind: str, *, doc: str = "Of a test.", **members: object) -> type[Component]:
    return types.new_class(
        "Mine", (Component,), {"kind": kind}, lambda body: body.update(__doc__=doc, **members)
    )


@hookimpl
def answer(self, run):
    return None


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        PluginError, match="unknown kind 'trakcer'; known: model, adapter, tokenizer"
    ):
        define("trakcer")


def test_a_component_without_docstring_is_refused() -> None:
    with pytest.raises(PluginError, match="needs a docstring"):
        define("tracker", doc="")


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.factory])
def test_a_component_without_the_factory_of_its_kind_is_refused(kind) -> None:
    with pytest.raises(PluginError, match=f"must implement {kind.factory}"):
        define(kind.name)


def test_a_tokenizer_that_cannot_be_read_back_is_refused() -> None:
    with pytest.raises(PluginError, match="must implement forge_load_tokenizer"):
        define("tokenizer", forge_build_tokenizer=answer)


def test_the_option_every_component_of_a_kind_offers_is_demanded() -> None:
    with pytest.raises(PluginError, match="options of a optimizer must include 'lr'"):
        define("optimizer", forge_build_optimizer=answer)


def test_options_that_are_no_options_are_refused() -> None:
    with pytest.raises(PluginError, match="Options must derive from"):
        define("tracker", Options=dict)


def test_a_hook_method_without_the_mark_is_refused_because_it_would_never_be_called() -> None:
    def forge_metrics(self, event):
        pass

    with pytest.raises(PluginError, match=r"forge_metrics .* not marked @hookimpl"):
        define("tracker", forge_metrics=forge_metrics)


def test_a_derived_component_is_checked_like_its_base() -> None:
    base = define("tracker")
    with pytest.raises(PluginError, match="needs a docstring"):
        types.new_class("Derived", (base,))


def test_options_default_when_none_are_given_and_are_kept_as_given_otherwise() -> None:
    class Mine(Component, kind="tracker"):
        """With an option."""

        class Options(Options):
            suffix: str = "!"

    assert Mine().options.suffix == "!"
    assert Mine(Mine.Options(suffix="?")).options.suffix == "?"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.inside", "json.nothing"])
def test_a_missing_package_is_a_problem_with_its_remedy(module: str) -> None:
    component = define("tracker", requires=(module, "json"))()
    component.name = "mine"
    (problem,) = component.missing_packages()
    assert problem.key == "tracker.mine"
    assert problem.message == f"tracker 'mine' needs the {module} package"
    assert problem.remedy == f"pip install {module.partition('.')[0]}"


def test_a_stand_in_module_without_a_spec_counts_as_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "hollow", types.ModuleType("hollow"))
    assert define("tracker", requires=("hollow",))().missing_packages()


def test_looking_for_packages_imports_none_of_them() -> None:
    sys.modules.pop("antigravity", None)
    assert define("tracker", requires=("antigravity",))().missing_packages() == []
    assert "antigravity" not in sys.modules


def test_kinds_whose_choice_does_not_change_the_result_say_so() -> None:
    assert KINDS["backend"].scope is MACHINE
    assert KINDS["tracker"].scope is SAFE
    assert KINDS["model"].scope.name == "identity"


def test_every_factory_of_the_table_is_a_hook() -> None:
    from llmforge import hookspecs

    for kind in KINDS.values():
        for hook in (kind.factory, *kind.also):
            assert hook is None or (hook.startswith(HOOK_PREFIX) and hasattr(hookspecs, hook))
