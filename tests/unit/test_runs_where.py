"""``--where``: what holds for which run, and what is said of an expression that is none."""

from __future__ import annotations

import time

import pytest

from llmforge.errors import UsageError
from llmforge.insight.runs_index.where_columns import check_names, matching, names
from llmforge.insight.runs_index.where_syntax import parse

NOW = time.time()
COLUMNS = {
    "val/loss": [3.0, 4.0, None],
    "state": ["completed", "failed", "running"],
    "tags": [["base", "wide"], [], ["base"]],
    "optimizer.adamw.lr": [1e-3, 3e-4, None],
    "compile": [True, False, None],
    "started": [NOW - 3600, NOW - 10 * 86400, None],
    "duration": [100.0, 9000.0, None],
    "odd name": [1, 2, 3],
}


def held(text: str) -> list[int]:
    node = parse(text)
    check_names(node, text, COLUMNS)
    answers = matching(node, text, COLUMNS.__getitem__, 3)
    return [place for place, answer in enumerate(answers) if answer]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/loss < 3.5", [0]),
        ("val/loss<=4", [0, 1]),
        ("3.5 > val/loss", [0]),
        ("3 <= val/loss < 4", [0]),
        ("val/loss != 3", [1]),
        ("optimizer.adamw.lr == 3e-4", [1]),
        ("optimizer.adamw.lr == .001 or state == 'running'", [0, 2]),
        ("'base' in tags", [0, 2]),
        ("'base' not in tags", [1]),
        ("'base' in tags and not 'wide' in tags", [2]),
        ("state in ['failed', \"running\"]", [1, 2]),
        ("state not in ['failed']", [0, 2]),
        ("'fail' in state", [1]),
        ("not (val/loss < 3.5 or state == 'running')", [1]),
        ("state == 'completed' or state == 'failed' and val/loss > 9", [0]),
        ("val/loss", [0, 1]),
        ("not val/loss", [2]),
        ("val/loss == none", [2]),
        ("none != val/loss", [0, 1]),
        ("compile == true", [0]),
        ("compile == False", [1]),
        ("state < 3", []),
        ("val/loss in tags", []),
        ("3 in val/loss", []),
        ("val/loss > -1_000", [0, 1]),
        ("started > '2d'", [0]),
        ("started < '2d'", [1]),
        ("started >= '2001-01-01'", [0, 1]),
        ("duration > '1h'", [1]),
        ("`odd name` >= 2", [1, 2]),
        ("true", [0, 1, 2]),
    ],
)
def test_an_expression_holds_for_the_runs_it_is_true_of(text: str, expected: list[int]) -> None:
    assert held(text) == expected


@pytest.mark.parametrize(
    ("text", "says", "place"),
    [
        ("", "empty", 0),
        ("val/loss <", "missing at the end", 10),
        ("val/loss = 3", "'=' has no meaning", 9),
        ("val/loss < 3 state", "'state' is not expected", 13),
        ("(val/loss < 3", "')' is missing", 13),
        ("state == 'failed", "never closed", 9),
        ("state in ['failed' 'x']", "',' or ']'", 19),
        ("val/loss < 3 & state", "'&' has no meaning", 13),
        ("val/loss * 2", "'*' has no meaning", 9),
        ("__import__('os')", "not expected", 10),
        ("val/lost < 3", "no run has 'val/lost'", 0),
        ("lr < 3", "no run has 'lr'", 0),
        ("started > 'soon'", "neither an age nor a date", 10),
        ("duration > 'long'", "not a length of time", 11),
        ("(" * 60 + "1", "levels", 51),
    ],
)
def test_a_wrong_expression_is_refused_with_its_place(text: str, says: str, place: int) -> None:
    with pytest.raises(UsageError) as caught:
        held(text)
    first, line, marks = caught.value.message.split("\n")
    assert says in first
    assert line == f"    {text}"
    assert marks.index("^") - 4 == place


def test_the_nearest_names_are_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        held("lr < 3")
    assert "'optimizer.adamw.lr'" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        held("val/lost < 3")
    assert "'val/loss'" in caught.value.remedy


def test_every_name_is_found_in_order() -> None:
    node = parse("not (a.b < 1) or 'x' in c and 1 < d/e < f")
    assert [item.name for item in names(node)] == ["a.b", "c", "d/e", "f"]
