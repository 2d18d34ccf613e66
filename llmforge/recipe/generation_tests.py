"""Tests of a model's texts: prompts with what must hold of the answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from llmforge.errors import Problem, RecipeError
from llmforge.options import Options, closest, problems_from

_REMEDY = (
    'a test is a line such as {"prompt": "2 + 2 =", "checks": {"contains": "4", "max_length": 8}}'
)


class Checks(Options):
    """What must hold of a response."""

    contains: str | list[str] | None = None
    """A text that must occur in it; of a list each."""
    regex: str | None = None
    """A regular expression that must match somewhere in it."""
    max_length: Annotated[int, Field(gt=0)] | None = None
    """Tokens that it may have."""
    stop_reached: bool | None = None
    """Whether the model must end it by itself (``true``), or go on up to the limit."""

    @field_validator("regex")
    @classmethod
    def _valid(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"'{value}' is not a regular expression: {error}") from None
        return value

    @field_validator("contains")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value in ("", []) or (isinstance(value, list) and "" in value):
            raise ValueError("an empty text is in every response")
        return value


class TestMessage(Options):
    """A turn of a conversation."""

    __test__ = False  # no test of pytest's

    role: Literal["system", "user", "assistant"]
    """Who says it."""
    content: str
    """What is said."""


class GenerationTest(Options):
    """A prompt, or a conversation, with checks of the response."""

    name: str | None = None
    """What reports call it; its number when absent."""
    prompt: str | None = None
    """Continued or answered as ``generation.prompts`` are."""
    messages: list[TestMessage] | None = None
    """A conversation instead, whose next turn is generated."""
    checks: Checks = Checks()
    """What must hold of the response."""

    @model_validator(mode="after")
    def _one_prompt(self) -> GenerationTest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if self.messages is not None and (
            not self.messages or self.messages[-1].role == "assistant"
        ):
            raise ValueError("messages must end with one that is to be answered")
        return self


def read_tests(tests: str | list[GenerationTest] | None) -> list[GenerationTest]:
    """Return the tests of ``generation.tests``, read from the file that it names.

    Raises:
        RecipeError: with every line of the file that is not a test.
    """
    if not isinstance(tests, str):
        return _named(tests or [])
    path = Path(tests).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _broken(tests, f"it cannot be read: {why}") from None
    found: list[GenerationTest] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_test(line, where=f"{tests}:{number}"))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems, source=tests)
    if not found:
        raise _broken(tests, "it has no test")
    return _named(found)


def _test(line: str, *, where: str) -> GenerationTest:
    try:
        table: Any = json.loads(line)
    except ValueError as error:
        raise _broken(where, f"it is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise _broken(where, "it is not an object")
    try:
        return GenerationTest.model_validate_json(line)
    except ValidationError as error:
        found = problems_from(error, prefix="", options=GenerationTest, table=table)
        problems = [replace(item, where=where, remedy=_remedy(item)) for item in found]
        raise RecipeError(problems, source=where) from None


def _remedy(problem: Problem) -> str:
    if problem.message != "unknown key":
        return "" if problem.key else _REMEDY
    table, _, name = problem.key.rpartition(".")
    known = Checks if table == "checks" else TestMessage if table else GenerationTest
    near = closest(name, known.model_fields)
    return f"did you mean '{near}'?" if near else f"known keys: {', '.join(known.model_fields)}"


def _broken(where: str, message: str) -> RecipeError:
    problem = Problem(key="tests", message=message, where=where, remedy=_REMEDY)
    return RecipeError([problem], source=where.partition(":")[0])


def _named(tests: list[GenerationTest]) -> list[GenerationTest]:
    """Return the tests with names of their own."""
    taken = {test.name for test in tests}
    named = []
    for number, test in enumerate(tests, 1):
        name = test.name
        if name is None:
            name = str(number) if str(number) not in taken else f"{number} of {len(tests)}"
        named.append(test.model_copy(update={"name": name}))
    return named
