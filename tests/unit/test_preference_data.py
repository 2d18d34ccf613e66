"""The data ``preference``: forms of rows, bad rows, the bundled pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.errors import DataError
from llmforge.interfaces import Preference
from llmforge.testing import make_component, run_context
from llmforge_plugins.data._preference import SAMPLE, PreferenceData
from llmforge_plugins.data.preference import PreferencePairs

USER, OTHER = {"role": "user", "content": "Why?"}, {"role": "user", "content": "Who?"}
GOOD = {"role": "assistant", "content": "Because."}
BAD = {"role": "assistant", "content": "No."}
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}

ROWS: dict[str, dict[str, Any]] = {
    "texts": PAIR,
    "messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "a message each": {"prompt": USER, "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "whole conversations and their prompt": {
        "prompt": "Why?",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
    },
    "transcripts": {
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
    },
}

Open = Callable[..., PreferenceData]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_(rows: list[Any], **options: Any) -> PreferenceData:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        component = make_component(
            PreferencePairs, {"path": str(path), "validation_fraction": 0.25, **options}
        )
        found = component.forge_build_data(run=run_context(tmp_path))
        assert isinstance(found, PreferenceData)
        return found

    return open_


def said(pair: Preference) -> tuple[list[tuple[str, str]], str, str]:
    prompt = [(message.role, message.content) for message in pair.prompt]
    assert pair.chosen.role == pair.rejected.role == "assistant"
    return prompt, pair.chosen.content, pair.rejected.content


@pytest.mark.parametrize("name", ROWS)
def test_every_form_of_a_row_is_a_prompt_with_two_answers(name: str, opened: Open) -> None:
    data = opened([ROWS[name]] * 4)
    found = list(data.examples("train"))
    assert len(found) == 3
    assert said(found[0]) == ([("user", "Why?")], "Because.", "No.")
    assert re.search(r"pairs\.jsonl:\d$", found[0].source)
    assert list(data.iter_text("validation")) == ["Why?\nBecause.\nNo."]
    assert data.layout.train_on == "last_response"
    assert data.layout.packing is False


def test_a_conversation_of_several_turns_is_the_prompt_of_its_last_answer(opened: Open) -> None:
    turns = [{"role": "system", "content": "Be kind."}, OTHER, BAD, USER]
    row = {"chosen": [*turns, GOOD], "rejected": [*turns, {**BAD, "content": "Never."}]}
    prompt, chosen, rejected = said(next(opened([row] * 4).examples("train")))
    assert prompt[0] == ("system", "Be kind.")
    assert prompt[1:] == [("user", "Who?"), ("assistant", "No."), ("user", "Why?")]
    assert (chosen, rejected) == ("Because.", "Never.")


def test_columns_may_have_other_names_and_a_system_message(opened: Open) -> None:
    row = {"question": "Why?", "a": "Because.", "b": "No.", "system": "Be kind."}
    columns = {"prompt": "question", "chosen": "a", "rejected": "b"}
    prompt, *answers = said(next(opened([row] * 4, columns=columns).examples("train")))
    assert prompt == [("system", "Be kind."), ("user", "Why?")]
    assert answers == ["Because.", "No."]
    with pytest.raises(DataError, match="it has no column 'chosen'") as caught:
        opened([row] * 4)
    assert caught.value.remedy == 'name the column: columns = { chosen = "…" }'


BROKEN = {
    "no prompt": ({"chosen": "a", "rejected": "b"}, "it has no column 'prompt'"),
    "no rejected answer": ({"prompt": "a", "chosen": "b"}, "it has no column 'rejected'"),
    "an empty answer": ({**PAIR, "rejected": " "}, "'rejected' is empty"),
    "an empty prompt": ({**PAIR, "prompt": ""}, "'prompt' is empty"),
    "a number": ({**PAIR, "chosen": 3}, "'chosen' is int, not a text"),
    "equal answers": (
        {**PAIR, "rejected": "Because. "},
        "'chosen' and 'rejected' are equal, so nothing is preferred",
    ),
    "an answer by the user": (
        {**PAIR, "chosen": [{**GOOD, "role": "user"}]},
        "'chosen' ends with a message of the user, not of the assistant",
    ),
    "a prompt that is answered": (
        {**PAIR, "prompt": [USER, GOOD]},
        "the prompt ends with a message of the assistant, not of a user",
    ),
    "a wrong role": (
        {**PAIR, "rejected": [{"role": "narrator", "content": "x"}]},
        "in 'rejected', message 1 is by 'narrator', which is no role",
    ),
    "an empty message": (
        {**PAIR, "rejected": [{"role": "assistant", "content": ""}]},
        "in 'rejected', 'message 1' is empty",
    ),
    "conversations that differ earlier": (
        {"chosen": [USER, GOOD], "rejected": [OTHER, BAD]},
        "'chosen' and 'rejected' differ in message 1, before the last one",
    ),
    "conversations of unequal length": (
        {"chosen": [USER, GOOD], "rejected": [USER, BAD, OTHER, GOOD]},
        "'chosen' has 2 messages and 'rejected' 4",
    ),
    "another prompt than that of the conversations": (
        {"prompt": "Who?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        "'prompt' is not what 'chosen' begins with",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_row_is_named_with_its_place_or_left_out(name: str, opened: Open) -> None:
    row, message = BROKEN[name]
    with pytest.raises(DataError, match=rf"pairs\.jsonl:3: {re.escape(message)}") as caught:
        opened([PAIR, PAIR, row, PAIR, PAIR])
    assert caught.value.remedy
    data = opened([PAIR, PAIR, row, PAIR, PAIR], on_bad_row="skip")
    assert sum(len(list(data.examples(split))) for split in data.splits) == 4


def test_many_bad_rows_are_listed_with_their_lines_and_counted(opened: Open) -> None:
    broken = [
        {"prompt": "Why?", "rejected": "No."},
        {"prompt": "Why?", "chosen": "No.", "rejected": "No. "},
        {"prompt": "", "chosen": "a", "rejected": "b"},
        {"prompt": "Why?", "chosen": 5, "rejected": "b"},
        *[{"prompt": 1} for _ in range(9)],
    ]
    with pytest.raises(DataError) as caught:
        opened([PAIR, *broken, PAIR])
    head, *lines = caught.value.message.split("\n  ")
    assert head == "13 of 15 rows cannot be used"
    assert len(lines) == 11
    assert [int(re.findall(r"jsonl:(\d+): ", line)[0]) for line in lines[:-1]] == [*range(2, 12)]
    assert lines[-1] == "and 3 more"
    assert "\n" not in caught.value.reason
    assert 'on_bad_row = "skip"' in caught.value.remedy


def test_the_bundled_pairs_are_many_and_differ(tmp_path: Path) -> None:
    component = make_component(PreferencePairs, {"sample": True, "validation_fraction": 0.1})
    data = component.forge_build_data(run=run_context(tmp_path))
    pairs = [pair for split in data.splits for pair in data.examples(split)]
    assert len(pairs) == len(SAMPLE.read_text(encoding="utf-8").splitlines()) >= 120
    for texts in (
        {pair.prompt[0].content for pair in pairs},
        {pair.chosen.content for pair in pairs},
        {pair.rejected.content for pair in pairs},
    ):
        assert len(texts) == len(pairs)
    lengths = sorted(len(pair.chosen.content) for pair in pairs)
    assert lengths[0] < 10 and lengths[-1] > 150
    licence = (SAMPLE.parent / "LICENSE").read_text(encoding="utf-8")
    assert SAMPLE.name in licence


def test_weights_say_how_often_an_epoch_has_a_pair(tmp_path: Path) -> None:
    row = {"prompt": "Add 1 and 2.", "chosen": "3", "rejected": "4"}
    for name in ("a", "b"):
        rows = ({**row, "chosen": f"{name}{number}"} for number in range(10))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    train = {str(tmp_path / "a.jsonl"): 3, str(tmp_path / "b.jsonl"): 1}
    made = make_component(PreferencePairs, {"train": train, "validation_fraction": 0.05})
    data = made.forge_build_data(run=run_context(tmp_path))
    chosen = [example.chosen.content for example in data.examples("train")]
    assert {chosen.count(answer) for answer in chosen if answer[0] == "a"} == {3}
    assert {chosen.count(answer) for answer in chosen if answer[0] == "b"} == {1}
