"""Texts with labels from files, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.errors import DataError
from llmforge.plugins import load
from llmforge.testing import run_context


def opened(path: Path, rows: list[Any], **options: Any) -> Any:
    file = path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    component = load("data", "labelled")
    made = component(component.Options(path=str(file), **options))
    return made.forge_build_data(run_context(path / "run"))


def texts(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([1, 0, 2, 1], ("0", "1", "2")),
        ([10, 5, 5], ("10", "5")),
        ([1.0, 0.0, 1.0], ("0", "1")),
    ],
)
def test_labels_are_numbered_in_an_order_that_does_not_depend_on_the_rows(
    tmp_path: Path, labels: list[Any], names: tuple[str, ...]
) -> None:
    data = opened(tmp_path, texts(*labels))
    assert data.labels == names
    found = {
        example.text: example.label for split in data.splits for example in data.examples(split)
    }
    assert found == {
        f"text {number}": names.index(str(int(label) if isinstance(label, float) else label))
        for number, label in enumerate(labels)
    }


def test_named_labels_have_the_order_they_are_named_in(tmp_path: Path) -> None:
    data = opened(tmp_path, texts("no", "yes", "no"), labels=["yes", "no", "maybe"])
    assert data.labels == ("yes", "no", "maybe")


def test_columns_may_have_other_names_and_a_second_text(tmp_path: Path) -> None:
    rows = [{"review": "good", "title": "x", "stars": s} for s in ("5", "1", "5")]
    columns = {"text": "review", "pair": "title", "label": "stars"}
    example = next(opened(tmp_path, rows, columns=columns).examples("train"))
    assert (example.text, example.pair) == ("good", "x")


def test_texts_need_no_labels(tmp_path: Path) -> None:
    data = opened(tmp_path, [{"text": "a"}, {"text": "b"}, {"text": "c"}])
    assert data.labels == ()
    assert [example.label for example in data.examples("train")] == [None, None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": 1}], "rows.jsonl:1: it has no 'text'"),
        ([*texts(0, 1), {"text": " ", "label": 1}], "rows.jsonl:3: it has no usable 'text'"),
        ([*texts(0, 1), {"text": "x"}], "rows.jsonl:3: it has no 'label', unlike the first"),
        ([{"text": "x"}, *texts(0)], "rows.jsonl:2: it has a 'label', unlike the first"),
        ([*texts("a"), {"text": "x", "label": [1]}], "rows.jsonl:2: 'label' is list"),
        ([*texts("a"), {"text": "x", "label": 0.5}], "rows.jsonl:2: 'label' is float"),
        ([*texts("a"), {"text": "x", "pair": 3, "label": "b"}], "rows.jsonl:2: 'pair' is int"),
        (texts("a", "a", "a"), "every row has the same label, 'a'"),
        ([["text", "label"]], "rows.jsonl:1: a row must be an object, not list"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, rows)
    assert message in caught.value.message


def test_a_label_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:3: 'label' is 'huh', which is not a label"):
        opened(tmp_path, texts("no", "yes", "huh"), labels=["no", "yes"])


def test_validation_may_not_have_a_label_of_its_own(tmp_path: Path) -> None:
    other = tmp_path / "valid.jsonl"
    other.write_text(json.dumps({"text": "x", "label": "c"}) + "\n")
    with pytest.raises(DataError, match=r"valid.jsonl:1: 'label' is 'c', which is not a label"):
        opened(tmp_path, texts("a", "b"), validation=str(other))


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    rows = [*texts("a", "b", "a"), {"text": "x"}]
    data = opened(tmp_path, rows, on_bad_row="skip")
    assert sum(1 for split in data.splits for _ in data.examples(split)) == 3
