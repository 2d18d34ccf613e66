"""Every hook has a section in docs/reference/hooks.md with its arguments, and a test of its own."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmforge import Problem, hookimpl, hookspecs
from llmforge.component import KINDS
from llmforge.events import EVENT_TYPES
from llmforge.plugins import build_manager

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")

HOOKS = [name for name in vars(hookspecs) if name.startswith(hookspecs.HOOK_PREFIX)]

_IN_A_RUN = "tests/integration/test_hooks_in_a_run.py"
_RESERVED = "tests/unit/test_reserved_hooks.py"
_TOLD = f"{_IN_A_RUN}::test_metrics_evaluations_and_checkpoints_are_told_at_their_steps"

TESTED_BY: Mapping[str, str] = {
    "forge_build_data": f"{_IN_A_RUN}::test_every_part_is_built_once_from_data_to_optimizer",
    "forge_build_tokenizer": f"{_IN_A_RUN}::test_factories_are_given_what_was_built_before",
    "forge_load_tokenizer": (
        f"{_IN_A_RUN}::test_a_resumed_run_reads_its_tokenizer_back_instead_of_making_it_again"
    ),
    "forge_build_model": f"{_IN_A_RUN}::test_factories_are_given_what_was_built_before",
    "forge_build_adapter": (
        "tests/unit/test_model_build.py::test_forge_build_adapter_is_asked_for_what_changes_the_model"
    ),
    "forge_build_optimizer": f"{_IN_A_RUN}::test_factories_are_given_what_was_built_before",
    "forge_build_schedule": f"{_IN_A_RUN}::test_every_part_is_built_once_from_data_to_optimizer",
    "forge_build_backend": f"{_IN_A_RUN}::test_every_part_is_built_once_from_data_to_optimizer",
    "forge_build_generator": (
        f"{_IN_A_RUN}::test_a_generator_is_built_over_a_model_in_evaluation_mode"
    ),
    "forge_build_objective": (
        "tests/unit/test_objectives.py::test_forge_build_objective_makes_what_makes_the_rows"
    ),
    "forge_build_metric": (
        "tests/unit/test_answers.py::test_forge_build_metric_is_asked_for_each_evaluation"
    ),
    "forge_open_storage": (
        "tests/unit/test_remote_calls.py::test_forge_open_storage_is_given_the_whole_url"
    ),
    "forge_open_deployment": (
        "tests/unit/test_deploy_parts.py::test_forge_open_deployment_is_given_the_whole_address"
    ),
    "forge_open_tracked_run": (
        "tests/unit/test_generate_tracked.py::test_forge_open_tracked_run_is_given_the_address"
    ),
    "forge_build_sweeper": (
        f"{_RESERVED}::test_forge_build_sweeper_is_given_the_space_the_direction_and_the_seed"
    ),
    "forge_run_start": f"{_IN_A_RUN}::test_the_start_comes_first_and_the_end_last",
    "forge_metrics": _TOLD,
    "forge_eval_end": _TOLD,
    "forge_histograms": f"{_IN_A_RUN}::test_histograms_are_told_at_their_interval",
    "forge_samples": f"{_IN_A_RUN}::test_samples_and_artifacts_are_told_with_files_that_exist",
    "forge_artifact": f"{_IN_A_RUN}::test_samples_and_artifacts_are_told_with_files_that_exist",
    "forge_checkpoint_saved": _TOLD,
    "forge_checkpoint_uploaded": (
        f"{_IN_A_RUN}::test_an_upload_is_told_to_callbacks_and_trackers_with_its_address"
    ),
    "forge_trial_start": f"{_RESERVED}::test_an_event_reaches_the_component_that_listens_for_it",
    "forge_trial_end": f"{_RESERVED}::test_an_event_reaches_the_component_that_listens_for_it",
    "forge_run_error": f"{_IN_A_RUN}::test_an_error_is_told_before_the_end",
    "forge_run_end": f"{_IN_A_RUN}::test_a_resumed_run_says_where_it_goes_on_and_how_it_ended",
    "forge_preflight": f"{_IN_A_RUN}::test_both_are_asked_before_the_run_starts",
    "forge_extra_metrics": (
        f"{_IN_A_RUN}::test_extra_metrics_are_asked_for_when_logging_and_become_metrics"
    ),
    "forge_checkpoint_state": f"{_IN_A_RUN}::test_a_callbacks_state_goes_through_the_checkpoint",
    "forge_stop_reason": f"{_IN_A_RUN}::test_a_callback_can_stop_the_run",
}
"""The test of each hook; the test must name it."""


def arguments(hook: str) -> list[str]:
    """Return the arguments of a hook, as its specification has them."""
    return list(inspect.signature(getattr(hookspecs, hook)).parameters)


def section(hook: str) -> str:
    """Return the text of a hook's section, its heading included."""
    found = re.search(rf"^### {hook}\(.*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/hooks.md has no section '### {hook}(...)'"
    return found[0]


def example(hook: str) -> str:
    """Return the Python example in a hook's section."""
    found = re.search(r"^```python\n(.*?)^```", section(hook), re.MULTILINE | re.DOTALL)
    assert found, f"the section of {hook} has no example"
    return found[1]


def test_every_section_is_of_a_hook_that_exists() -> None:
    assert re.findall(r"^### (\w+)", PAGE, re.MULTILINE) == _in_the_order_of_the_page()


def _in_the_order_of_the_page() -> list[str]:
    return sorted(HOOKS, key=lambda hook: PAGE.find(f"### {hook}("))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_heading_of_a_section_is_the_hooks_signature(hook: str) -> None:
    assert section(hook).splitlines()[0] == f"### {hook}({', '.join(arguments(hook))})"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_a_hook_is_accepted_as_an_implementation_of_it(hook: str) -> None:
    code = example(hook)
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    assert [item.arg for item in function.args.args] == ["self", *arguments(hook)]
    scope: dict[str, object] = {"hookimpl": hookimpl, "os": os, "Path": Path, "Problem": Problem}
    exec(code, scope)
    plugin = type("Example", (), {hook: scope[hook], "kind": "any", "name": "example"})()
    manager = build_manager([plugin])
    assert len(getattr(manager.hook, hook).get_hookimpls()) == 1


@pytest.mark.parametrize("hook", EVENT_TYPES)
def test_a_lifecycle_hooks_section_names_its_event_and_every_field(hook: str) -> None:
    text = section(hook)
    cls = EVENT_TYPES[hook]
    missing = [field.name for field in dataclasses.fields(cls) if f"`{field.name}`" not in text]
    assert f"`{cls.__name__}`" in text
    assert missing == []


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in EVENT_TYPES])
def test_a_hook_that_answers_says_what_it_returns(hook: str) -> None:
    assert "- **Returns**" in section(hook)


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.factory])
def test_a_factorys_section_names_its_kind(kind) -> None:
    assert f"(kind `{kind.name}`" in section(kind.factory)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_where_it_is_specified(hook: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, hook))


def test_the_table_of_tests_has_every_hook_and_no_other() -> None:
    assert set(TESTED_BY) == set(HOOKS)


@pytest.mark.parametrize("hook", TESTED_BY)
def test_the_test_of_a_hook_exists_and_names_it(hook: str) -> None:
    place, _, name = TESTED_BY[hook].partition("::")
    source = (ROOT / place).read_text(encoding="utf-8")
    found = [
        "\n".join(source.splitlines()[_first_line(node) - 1 : node.end_lineno])
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(found) == 1, f"{place} has no test '{name}'"
    assert re.search(rf"\b{hook}\b", found[0]), f"{name} never names {hook}"


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
