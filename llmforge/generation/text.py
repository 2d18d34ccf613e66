"""Texts from a loaded model: the recipe's generator with some options changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from llmforge.data.prompts import chosen, prompt_request
from llmforge.errors import RecipeError, UsageError
from llmforge.generation.load import LoadedModel
from llmforge.interfaces import READING, Completion, Generator
from llmforge.options import problems_from
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Selection


class StreamedText:
    """A text shown as it is generated, its prompt with the first piece: notices come before both.

    Args:
        prompt: what is continued.
        begin: shows the prompt.
        write: shows a piece of text.
    """

    def __init__(
        self, prompt: str, *, begin: Callable[[str], None], write: Callable[[str], None]
    ) -> None:
        self._prompt = prompt
        self._begin = begin
        self._write = write
        self._started = False

    def __call__(self, _index: int, piece: str) -> None:
        """Show a piece."""
        self._show_prompt()
        self._write(piece)

    def end(self) -> None:
        """End the line, also of a text without a piece."""
        self._show_prompt()
        self._write("\n")

    def _show_prompt(self) -> None:
        if not self._started:
            self._begin(self._prompt)
            self._started = True


def generate_texts(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    seed: int = 0,
    chat: bool | None = None,
    system: str | None = None,
    on_text: Callable[[int, str], None] | None = None,
    generator: Selection | None = None,
    **options: Any,
) -> list[Completion]:
    """Continue ``prompts``, or answer them, as one batch.

    Args:
        loaded: the model.
        prompts: texts to continue, or messages.
        samples: continuations per prompt.
        seed: equal seeds give equal texts.
        chat: whether prompts are messages, laid out by the run's chat template; where it has one
            when None.
        system: a system message before each.
        on_text: told (index of the completion, new piece of text) while generating.
        generator: the generation component; the one of the model's recipe when absent.
        options: the component's options that shall differ, for example ``temperature=0.5``.

    Returns:
        ``samples`` completions for each prompt, prompt by prompt.

    Raises:
        RecipeError: an option is unknown or its value not valid.
        UsageError: a prompt cannot be continued, or there is no template for ``chat``.
        TemplateError: the template refuses a message.
    """
    selection = changed_options(generator or loaded.recipe.selected("generation"), options)
    request = prompt_request(
        prompts,
        chat=chosen(loaded.chat, wanted=chat),
        system=system,
        samples=samples,
        seed=seed,
        on_text=on_text,
    )
    return build_generator(loaded, selection).generate(request)


def build_generator(loaded: LoadedModel, selection: Selection) -> Generator:
    """Return the generator ``selection`` names over the loaded model.

    Raises:
        UsageError: the model does not write.
        RecipeError: a package is missing.
    """
    if loaded.run.form in READING:
        raise UsageError(
            f"{loaded.run.id} was trained to read texts ('{loaded.run.form}') and writes none",
            remedy="its predictions are measured by: forge evaluate RUN",
        )
    component = load("generation", selection.name)(selection.options)
    if problems := component.missing_packages():
        raise RecipeError(problems, source=str(loaded.recipe.source))
    generator: Generator = call_factory(
        build_manager([component]),
        "forge_build_generator",
        run=loaded.run,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
    )
    return generator


def changed_options(selection: Selection, changes: Mapping[str, Any]) -> Selection:
    """Return ``selection`` with some options changed.

    Raises:
        RecipeError: with every option that is unknown or not valid.
    """
    if not changes:
        return selection
    model = type(selection.options)
    table = {**selection.options.model_dump(mode="json"), **changes}
    try:
        options = model.model_validate_json(json.dumps(table))
    except ValidationError as error:
        prefix = f"{selection.kind}.{selection.name}"
        problems = list(problems_from(error, prefix=prefix, options=model, table=table))
        raise RecipeError(problems, source="generation options") from error
    return Selection(selection.kind, selection.name, options)
