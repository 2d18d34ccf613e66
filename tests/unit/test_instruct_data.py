"""The data ``instruct``: formats, files, bad rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llmforge.errors import DataError
from llmforge.interfaces import Conversation
from llmforge.testing import make_component, run_context
from llmforge_plugins.data._instruct import InstructData
from llmforge_plugins.data.instruct import Instruct

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SAID = [("user", "Add.\n\n### Input:\n1 2"), ("assistant", "3")]

ROWS = {
    "alpaca": (ALPACA, SAID),
    "alpaca without input": (
        {"instruction": "Hi", "output": "Ho"},
        [("user", "Hi"), ("assistant", "Ho")],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        [("user", "a"), ("assistant", "b")],
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "b"},
            ]
        },
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
    "prompt": (
        {"prompt": "a", "completion": "b", "system": "s"},
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
    "source": ({"source": "a", "target": "b"}, [("user", "a"), ("assistant", "b")]),
}

Open = Callable[..., InstructData]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_(path: Path, **options: Any) -> InstructData:
        component = make_component(Instruct, {"path": str(path), **options})
        found = component.forge_build_data(run=run_context(tmp_path))
        assert isinstance(found, InstructData)
        return found

    return open_


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(example: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


@pytest.mark.parametrize("name", ROWS)
def test_formats_are_seen_from_their_columns(name: str, tmp_path: Path, opened: Open) -> None:
    row, expected = ROWS[name]
    data = opened(lines(tmp_path / "a.jsonl", [row] * 4), validation_fraction=0.25)
    found = list(data.examples("train"))
    assert [said(example) for example in found] == [expected] * 3
    assert found[0].source.startswith(f"{tmp_path / 'a.jsonl'}:")


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.name.endswith(".jsonl"):
        return lines(path, rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8-sig")
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    elif path.suffix == ".csv":
        text = "instruction,input,output\n" + "".join(
            f'"{r["instruction"]}","{r["input"]}","{r["output"]}"\n' for r in rows
        )
        path.write_text(text, encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_files_of_every_kind_hold_the_same(name: str, tmp_path: Path, opened: Open) -> None:
    rows = [{**ALPACA, "output": f"{number}\nnext"} for number in range(8)]
    data = opened(write(tmp_path / name, rows), validation_fraction=0.25)
    answers = sorted(
        example.messages[-1].content for s in data.splits for example in data.examples(s)
    )
    assert answers == [f"{number}\nnext" for number in range(8)]
    assert sorted(len(list(data.examples(split))) for split in data.splits) == [2, 6]


def test_what_validates_depends_on_the_seed_alone(tmp_path: Path, opened: Open) -> None:
    path = lines(tmp_path / "a.jsonl", [{**ALPACA, "output": str(n)} for n in range(50)])
    chosen = [
        [said(item) for item in opened(path, shuffle_seed=seed).examples("validation")]
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert opened(path).fingerprint == opened(path).fingerprint
    assert opened(path).fingerprint != opened(path, shuffle_seed=1).fingerprint


def test_columns_can_be_named(tmp_path: Path, opened: Open) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}] * 4)
    with pytest.raises(DataError, match=r"a\.jsonl:1: its columns \(question, answer\)"):
        opened(path, validation_fraction=0.25)
    columns = {"prompt": "question", "completion": "answer"}
    data = opened(path, columns=columns, validation_fraction=0.25)
    assert said(next(data.examples("train"))) == [("user", "a"), ("assistant", "b")]


def bad(*rows: Any, name: str = "a.jsonl", text: str | None = None) -> tuple[str, str]:
    return name, text if text is not None else "".join(json.dumps(r) + "\n" for r in rows)


GOOD = json.dumps(ALPACA) + "\n"
TURN = {"role": "user", "content": "a"}
BROKEN = {
    "an empty answer": (bad(ALPACA, {**ALPACA, "output": " "}), r":2: 'output' is empty"),
    "no answer": (bad(ALPACA, {"instruction": "a", "input": ""}), r":2: it has no column 'output'"),
    "an answer that is a number": (
        bad({**ALPACA, "output": 3}),
        r":1: 'output' is int, not a text",
    ),
    "null": (bad({**ALPACA, "output": None}), r":1: 'output' is NoneType"),
    "a wrong role": (
        bad({"messages": [{"role": "narrator", "content": "x"}]}),
        r":1: message 1 is by 'narrator', which is no role",
    ),
    "nobody answers": (bad({"messages": [TURN]}), r":1: it has no answer of the assistant"),
    "JSON inside of JSON": (
        bad({"messages": json.dumps([TURN])}),
        r":1: 'messages' is a text, not a list of messages",
    ),
    "no messages": (bad({"messages": []}), r":1: 'messages' is not a list"),
    "a message that is a text": (bad({"messages": ["hi"]}), r":1: message 1 is not an object"),
    "a picture": (
        bad({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        r":1: message 1 has a part that is not text",
    ),
    "mixed formats": (
        bad(ALPACA, {"prompt": "a", "completion": "b"}),
        r":2: it has no column 'instruction'",
    ),
    "no JSON": (bad(text=GOOD + "{'a': 1}\n"), r":2: not valid JSON: Expecting property"),
    "cut short": (bad(text=GOOD + '{"instruction": "a'), r":2: not valid JSON: Unterminated"),
    "a list": (bad([1, 2]), r":1: a row must be an object, not list"),
    "lines called .json": (bad(name="a.json", text=GOOD * 2), r"a\.json:2: not valid JSON: Extra"),
    "an object without rows": (bad(name="a.json", text='{"a": 1}'), "is not a list of rows"),
    "no rows": (bad(text="\n"), "there are no rows"),
    "one row": (bad(ALPACA), "1 rows are too few"),
    "another encoding": (bad(text="BYTES"), "is not utf-8 text"),
    "too many fields": (
        bad(name="a.csv", text="prompt,completion\na,b\na,b,c\n"),
        r"a\.csv:3: it has more fields",
    ),
    "no table": (bad(name="a.parquet", text="hello"), r"a\.parquet cannot be read"),
    "an unknown ending": (bad(name="a.xlsx", text="hello"), r"a\.xlsx: rows cannot be read"),
    "unknown columns": (bad({"a": 1}), r":1: its columns \(a\) are those of no known format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_with_its_place(name: str, tmp_path: Path, opened: Open) -> None:
    (file, text), message = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(b'{"a": "\xff\xfe"}\n' if text == "BYTES" else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        opened(path)
    assert file in caught.value.message
    assert caught.value.remedy or "valid JSON" in message or "cannot be read" in message


def test_bad_rows_are_left_out_when_asked_for_and_counted(tmp_path: Path) -> None:
    rows = [{**ALPACA, "output": str(number)} for number in range(10)]
    rows[3]["output"] = ""
    path = lines(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + "{oops\n")
    told: list[str] = []
    component = make_component(Instruct, {"path": str(path), "on_bad_row": "skip"})
    run = run_context(tmp_path, notice=told.append)
    data = component.forge_build_data(run=run)
    answers = {item.messages[-1].content for s in data.splits for item in data.examples(s)}
    assert answers == {str(number) for number in range(10)} - {"3"}
    assert told[0].startswith("2 of 11 rows left out: ")
    assert f"{path}:4: 'output' is empty" in told[0]
    assert f"{path}:11: not valid JSON" in told[0]


def test_a_long_row_is_one_row(tmp_path: Path, opened: Open) -> None:
    rows = [{**ALPACA, "input": "x" * 10_000_000}, ALPACA, ALPACA, ALPACA]
    data = opened(lines(tmp_path / "a.jsonl", rows), validation_fraction=0.25)
    assert sum(1 for split in data.splits for _ in data.examples(split)) == 4


def test_the_bundled_instructions_are_many_and_varied(tmp_path: Path) -> None:
    component = make_component(Instruct, {"sample": True})
    data = component.forge_build_data(run=run_context(tmp_path))
    found = [said(item) for split in data.splits for item in data.examples(split)]
    assert len(found) >= 200
    assert len({tuple(item) for item in found}) == len(found)
    assert len({asked[1].split("\n")[0] for (asked, _) in found}) > 120
    assert all(len(answer[1]) < 300 for (_, answer) in found)


def test_files_or_the_bundled_instructions_are_needed() -> None:
    for options in ({}, {"path": "a.jsonl", "sample": True}, {"path": "a", "train": "b"}):
        with pytest.raises(Exception, match="give the training files"):
            make_component(Instruct, options)


def test_weights_say_how_often_an_epoch_has_a_row(tmp_path: Path) -> None:
    for name, count in (("a", 40), ("b", 1000), ("c", 5)):
        rows = ({**ALPACA, "output": f"{name}{number}"} for number in range(count))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def epoch(train: Any, **options: Any) -> tuple[InstructData, list[str]]:
        made = make_component(Instruct, {"train": train, **options})
        data = made.forge_build_data(run=run_context(tmp_path))
        assert isinstance(data, InstructData)
        answers = [example.messages[1].content for example in data.examples("train")]
        return data, answers

    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in "abc")
    plain, _ = epoch([a, b, c])
    held = {example.source for example in plain.examples("validation")}
    data, answers = epoch({a: 2.5, b: 0.25, c: 1})
    assert {example.source for example in data.examples("validation")} == held
    counts = {name: [x for x in answers if x[0] == name] for name in "abc"}
    repeats = {counts["a"].count(answer) for answer in counts["a"]}
    assert repeats == {2, 3}
    assert 180 < len(counts["b"]) < 300
    assert len(set(counts["b"])) == len(counts["b"])
    assert {counts["c"].count(answer) for answer in counts["c"]} == {1}
    assert epoch({a: 2.5, b: 0.25, c: 1})[1] == answers
    assert epoch({a: 2.5, b: 0.25, c: 1}, shuffle_seed=1)[1] != answers
    fingerprints = {plain.fingerprint, data.fingerprint, epoch({a: 2, b: 1, c: 1})[0].fingerprint}
    assert len(fingerprints) == 3
    assert epoch({a: 1, b: 1, c: 1})[0].fingerprint == plain.fingerprint


@pytest.mark.parametrize("train", [{}, {"a.jsonl": 0}, {"a.jsonl": -1}, {"a.jsonl": 1e9}])
def test_a_weight_that_cannot_be_is_refused(train: Any) -> None:
    with pytest.raises(ValueError, match=r"train"):
        Instruct.Options(train=train)


def test_a_folder_of_the_library_datasets_is_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([ALPACA, {**ALPACA, "output": "4"}])
    folder = tmp_path / "saved"
    folder.mkdir()
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("dataset_info.json", "state.json"):
        (folder / name).write_text('{"features": [], "splits": []}', encoding="utf-8")
    made = make_component(Instruct, {"path": str(folder), "validation_fraction": 0.5})
    data = made.forge_build_data(run=run_context(tmp_path))
    found = [next(iter(data.examples(split))).messages[1].content for split in data.splits]
    assert sorted(found) == ["3", "4"]
