"""Generation tests: how they are written, what is checked, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.errors import RecipeError, UsageError
from llmforge.interfaces import Completion, GenerationRequest
from llmforge.recipe import load_recipe
from llmforge.recipe.generation_tests import Checks, GenerationTest, read_tests
from llmforge.run.generation_tests import (
    judge,
    prepare_tests,
    put_tests,
    repetition,
    report,
    success_rate,
)


def written(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "tests.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_file_has_a_test_a_line_and_each_gets_a_name(tmp_path: Path) -> None:
    tests = read_tests(
        written(
            tmp_path,
            '\ufeff{"prompt": "a", "name": "2"}',
            "",
            '{"prompt": "b", "checks": {"contains": ["x", "y"], "max_length": 3}}',
            '{"messages": [{"role": "user", "content": "c"}]}',
        )
    )
    assert [test.name for test in tests] == ["2", "2 of 3", "3"]
    assert tests[1].checks.contains == ["x", "y"]
    assert tests[2].messages is not None and tests[2].messages[0].content == "c"


@pytest.mark.parametrize(
    ("line", "message", "remedy"),
    [
        ("{", "tests: it is not JSON", '{"prompt": "2 + 2 ="'),
        ("[1]", "tests: it is not an object", '{"prompt": "2 + 2 ="'),
        ("{}", "give exactly one of prompt and messages", '{"prompt": "2 + 2 ="'),
        ('{"prompt": "a", "messages": []}', "messages", ""),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "messages.0.role", ""),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "one that is to be answered",
            "",
        ),
        ('{"promt": "a"}', "promt: unknown key", "did you mean 'prompt'?"),
        ('{"prompt": "a", "checks": {"regexp": "b"}}', "checks.regexp", "did you mean 'regex'?"),
        ('{"prompt": "a", "checks": {"regex": "("}}', "checks.regex: '(' is not a regular", ""),
        ('{"prompt": "a", "checks": {"max_length": 0}}', "checks.max_length", ""),
        ('{"prompt": "a", "checks": {"contains": ""}}', "checks.contains", ""),
        ('{"prompt": "a", "checks": {"stop_reached": 1}}', "checks.stop_reached", ""),
    ],
)
def test_a_line_that_is_no_test_is_named_with_what_is_wrong(
    tmp_path: Path, line: str, message: str, remedy: str
) -> None:
    source = written(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(RecipeError) as caught:
        read_tests(source)
    problems = [item for item in caught.value.problems if message in f"{item.key}: {item.message}"]
    assert problems, caught.value.problems
    assert {item.where for item in caught.value.problems} == {f"{source}:2"}
    assert remedy in problems[0].remedy


def test_a_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_tests(str(tmp_path / "nothing.jsonl"))
    with pytest.raises(RecipeError, match="it has no test"):
        read_tests(written(tmp_path, ""))


def test_tests_may_be_tables_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    text = 'extends = "alpaca_custom_tiny"\n[[generation.tests]]\nprompt = "a"\n'
    path.write_text(text + '[generation.tests.checks]\nregex = "b"\n', encoding="utf-8")
    (test,) = read_tests(load_recipe(path).generation.tests)
    assert (test.name, test.prompt, test.checks.regex) == ("1", "a", "b")
    path.write_text(text.replace("prompt", "promt"), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert [item.key for item in caught.value.problems] == ["generation.tests.0.promt"]
    path.write_text(text.replace("[[generation.tests]]", "[generation]\ntests_every = 5\n#"))
    with pytest.raises(RecipeError):
        load_recipe(path)


def completion(text: str, *, tokens: int = 4, finish: str = "eos") -> Completion:
    return Completion(prompt="p", text=text, tokens=tokens, finish=finish, seconds=0.5)


@pytest.mark.parametrize(
    ("checks", "text", "finish", "passed"),
    [
        ({"contains": "am"}, "I am", "eos", True),
        ({"contains": ["am", "no"]}, "I am", "eos", False),
        ({"regex": "^I"}, "I am", "eos", True),
        ({"regex": "^a"}, "I am", "eos", False),
        ({"max_length": 4}, "I am", "eos", True),
        ({"max_length": 3}, "I am", "eos", False),
        ({"stop_reached": True}, "I am", "stop", True),
        ({"stop_reached": True}, "I am", "length", False),
        ({"stop_reached": False}, "I am", "length", True),
    ],
)
def test_a_check_is_passed_or_not(
    checks: dict[str, Any], text: str, finish: str, passed: bool
) -> None:
    found = judge(completion(text, finish=finish), Checks(**checks))
    assert found == {next(iter(checks)): passed}


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("a b c", 0.0), ("a b c d e", 0.0), ("a a a a a a", 2 / 3), ("a b " * 4, 3 / 5)],
)
def test_repetition_is_the_share_of_four_words_that_came_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


class Echo:
    """Responds with the prompt; keeps the requests."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []

    def generate(self, request: GenerationRequest) -> list[Completion]:
        self.asked.append(request)
        assert request.on_text is not None
        request.on_text(0, "")
        return [completion(prompt) for prompt in request.prompts]


def test_tests_are_put_one_at_a_time_and_reported() -> None:
    tests = [
        GenerationTest(name="a", prompt="yes", checks=Checks(contains="y", max_length=2)),
        GenerationTest(name="b", prompt="yes", checks=Checks(contains="y")),
        GenerationTest(name="c", prompt="yes"),
    ]
    echo = Echo()
    results = put_tests(echo, prepare_tests(tests, template=None, seed=3))
    assert [(request.prompts, request.seed) for request in echo.asked] == [(["yes"], 3)] * 3
    assert [result.passed for result in results] == [False, True, None]
    assert success_rate(results) == 0.5
    assert success_rate(results[2:]) is None
    first = results[0].row(7)
    assert (first["step"], first["test"], first["failed"]) == (7, "a", "max_length")
    assert "seconds" not in first
    found = json.loads(json.dumps(report(results)))
    assert found["tests"][0]["checks"] == {"contains": True, "max_length": False}
    assert found["tests"][0]["tokens_per_second"] == 8.0


def test_a_request_to_stop_ends_them() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    asked = prepare_tests([GenerationTest(name="a", prompt="x")], template=None)
    with pytest.raises(KeyboardInterrupt):
        put_tests(Echo(), asked, check=stop)


def test_messages_need_a_template() -> None:
    test = GenerationTest.model_validate_json(
        '{"name": "t", "messages": [{"role": "user", "content": "x"}]}'
    )
    with pytest.raises(UsageError, match="test t has messages, and this run has no chat template"):
        prepare_tests([test], template=None)
