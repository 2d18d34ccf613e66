"""Putting tests to a model: what it responds, how fast, how varied, and what holds of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmforge.data.chat_template import TemplateError
from llmforge.data.prompts import PromptLayout, chosen, prompt_request
from llmforge.errors import UsageError
from llmforge.interfaces import Completion, GenerationRequest, Generator, Message
from llmforge.recipe.generation_tests import Checks, GenerationTest


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A test as a generator is asked it, one at a time, so that its seconds are its own."""

    test: GenerationTest
    request: GenerationRequest


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What a model responded to a test.

    Attributes:
        test: what it was asked.
        completion: the response.
        checks: whether each check that the test has is passed, by its name.
    """

    __test__ = False  # no test of pytest's

    test: GenerationTest
    completion: Completion
    checks: dict[str, bool]

    @property
    def passed(self) -> bool | None:
        """Return whether all checks are passed; None when there are none."""
        return all(self.checks.values()) if self.checks else None

    def row(self, step: int) -> dict[str, Any]:
        """Return the result as a row of samples: what equal runs have in common."""
        failed = [name for name, passed in self.checks.items() if not passed]
        return {
            "step": step,
            "prompt": self.completion.prompt,
            "text": self.completion.text,
            **self._measures(),
            "test": self.test.name,
            "passed": self.passed,
            "failed": ", ".join(failed),
        }

    def timing(self) -> dict[str, float]:
        """Return the seconds that the response took, and its tokens per second."""
        seconds = self.completion.seconds
        return {
            "seconds": round(seconds, 6),
            "tokens_per_second": round(self.completion.tokens / max(seconds, 1e-9), 1),
        }

    def document(self) -> dict[str, Any]:
        """Return everything, for ``examples.json``."""
        return {
            "name": self.test.name,
            "prompt": self.completion.prompt,
            "response": self.completion.text,
            **self._measures(),
            **self.timing(),
            "checks": self.checks,
            "passed": self.passed,
        }

    def _measures(self) -> dict[str, Any]:
        text = self.completion.text
        return {
            "tokens": self.completion.tokens,
            "finish": self.completion.finish,
            "distinct_1": round(distinct_n(text, 1), 6),
            "distinct_2": round(distinct_n(text, 2), 6),
            "repetition": round(repetition(text), 6),
        }


def prepare_tests(
    tests: Sequence[GenerationTest],
    *,
    template: PromptLayout | None,
    chat: bool | None = None,
    system: str | None = None,
    seed: int = 0,
) -> list[Asked]:
    """Return tests as a generator is asked them.

    Args:
        tests: with names.
        template: lays out messages; None for a run that has no chat template.
        chat: whether prompts are messages; where there is a template when None.
        system: a system message before each prompt.
        seed: of what is drawn.

    Raises:
        UsageError: a test has messages, or ``chat`` asks for them, and there is no template.
        TemplateError: the template refuses a test's messages.
    """
    layout = chosen(template, wanted=chat)
    asked = []
    for test in tests:
        try:
            request = _request(test, template=template, layout=layout, system=system)
        except TemplateError as error:
            message = f"test {test.name}: {error.message}"
            raise TemplateError(message, remedy=error.remedy) from None
        asked.append(Asked(test=test, request=replace(request, seed=seed)))
    return asked


def _request(
    test: GenerationTest,
    *,
    template: PromptLayout | None,
    layout: PromptLayout | None,
    system: str | None,
) -> GenerationRequest:
    if test.prompt is not None:
        return prompt_request([test.prompt], chat=layout, system=system if layout else None)
    if template is None:
        raise UsageError(
            f"test {test.name} has messages, and this run has no chat template: it was trained on "
            "running text",
            remedy="give the test a prompt instead",
        )
    assert test.messages is not None
    messages = [Message(role=item.role, content=item.content) for item in test.messages]
    return GenerationRequest(
        prompts=["\n".join(f"{item.role}: {item.content}" for item in messages)],
        prompt_ids=[template.encode(messages)],
        stop_ids=template.stop_ids,
    )


def put_tests(
    generator: Generator, asked: Sequence[Asked], *, check: Callable[[], None] = lambda: None
) -> list[TestResult]:
    """Return what the generator responds to each test.

    Args:
        generator: over a model in evaluation mode.
        asked: the tests.
        check: called while generating; may raise.
    """
    results = []
    for item in asked:
        request = replace(item.request, on_text=lambda _index, _text: check())
        (completion,) = generator.generate(request)
        checks = judge(completion, item.test.checks)
        results.append(TestResult(test=item.test, completion=completion, checks=checks))
    return results


def judge(completion: Completion, checks: Checks) -> dict[str, bool]:
    """Return whether each check that is given is passed, by its name."""
    passed: dict[str, bool] = {}
    if checks.contains is not None:
        wanted = [checks.contains] if isinstance(checks.contains, str) else checks.contains
        passed["contains"] = all(text in completion.text for text in wanted)
    if checks.regex is not None:
        passed["regex"] = re.search(checks.regex, completion.text) is not None
    if checks.max_length is not None:
        passed["max_length"] = completion.tokens <= checks.max_length
    if checks.stop_reached is not None:
        passed["stop_reached"] = (completion.finish != "length") == checks.stop_reached
    return passed


def success_rate(results: Sequence[TestResult]) -> float | None:
    """Return the share of the tests with checks that are passed; None when none has any."""
    judged = [result.passed for result in results if result.passed is not None]
    return sum(judged) / len(judged) if judged else None


def report(results: Sequence[TestResult]) -> dict[str, Any]:
    """Return all results with their success rate, as JSON."""
    return {
        "success_rate": success_rate(results),
        "tests": [result.document() for result in results],
    }


def distinct_n(text: str, n: int) -> float:
    """Return the number of different n-grams of words divided by the number of words.

    The measure distinct-n of Li et al., "A Diversity-Promoting Objective Function for Neural
    Conversation Models" (2016), for one text; near 0 for a text that repeats itself, 0 for one
    without words. Words are what white space separates, so that tokenizers compare.
    """
    words = text.split()
    return len(set(_ngrams(words, n))) / len(words) if words else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Return the share of the n-grams of words that occurred in the text before.

    The measure seq-rep-n of Welleck et al., "Neural Text Generation with Unlikelihood Training"
    (2020); 0 for a text of fewer words.
    """
    found = _ngrams(text.split(), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
