"""Putting the same tests to one checkpoint after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import UsageError
from llmforge.generation.load import LoadedModel, open_checkpoint
from llmforge.generation.text import build_generator, changed_options
from llmforge.options import plain
from llmforge.recipe import GenerationRecipe
from llmforge.recipe.generation_tests import read_tests
from llmforge.run.generation_tests import prepare_tests, put_tests, report


def run_tests(
    addresses: Sequence[str],
    *,
    root: Path,
    file: str | None,
    recipe: GenerationRecipe | None = None,
    changes: Mapping[str, Any] | None = None,
    chat: bool | None = None,
    system: str | None = None,
    seed: int | None = None,
    loading: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Return what each checkpoint responds to the tests, as ``examples.json`` has it.

    Args:
        addresses: runs or checkpoints; every one is loaded after the one before is done.
        root: directory of all runs.
        file: of the tests; those of ``recipe`` when absent, else of the first run's recipe.
        recipe: says how texts are generated; each run's own recipe when absent.
        changes: options of the generator that shall differ.
        chat: whether prompts are messages; as the recipe says when None.
        system: a system message instead of the recipe's.
        seed: instead of the recipe's.
        loading: arguments of :func:`open_checkpoint`, such as ``device``.
        note: told which checkpoint is used, and what components want the user to know.

    Raises:
        RecipeError: the tests or an option cannot be used.
        UsageError: there are no tests, or one does not fit a run.
        CheckpointError, RunError: a checkpoint cannot be found or loaded.
    """
    source = file if recipe is None or file is not None else recipe.generation.tests
    tests = read_tests(source)
    done = []
    for address in addresses:
        loaded = open_checkpoint(address, root=root, notice=note, say=note, **(loading or {}))
        note(str(loaded))
        if loaded.int8 is not None:
            note(str(loaded.int8))
        tests = tests or read_tests(loaded.recipe.generation.tests)
        if not tests:
            raise UsageError(
                "there are no tests", remedy="give --tests FILE, or set generation.tests"
            )
        keys = loaded.recipe.generation if recipe is None else recipe.generation
        selection = loaded.recipe.selected("generation") if recipe is None else recipe.generator
        selection = changed_options(selection, changes or {})
        asked = prepare_tests(
            tests,
            template=loaded.chat,
            chat=keys.chat if chat is None else chat,
            system=keys.system if system is None else system,
            seed=keys.seed if seed is None else seed,
        )
        results = put_tests(build_generator(loaded, selection), asked)
        done.append({**_about(loaded, plain(selection.options)), **report(results)})
    return done


def _about(loaded: LoadedModel, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": loaded.run.id,
        "step": loaded.checkpoint.step,
        "checkpoint": str(loaded.checkpoint.path),
        "options": options,
    }
