from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from llmforge.recipe.toml import KeyPath, dotted, key_lines, parse_key

TRICKY = '''\
# a comment with [brackets] and key = "value"
top = 1
"quoted key" = 2
'literal.key' = 3
a . b."c.d" = 4
text = """
[not.a.header]
key = "not a key"
\\""" still inside
"""
raw = \'\'\'
other = 1 # no comment
\'\'\'\'\'
tail = """ends with two quotes"""""
array = [
  1, # ] not the end
  "two ] , }", [3,
    4],
  { x = 1, y = { z = 2 } },
]
point = { x = 1, "y z" = [1, 2], deep.er = "}" }
when = 1979-05-27 07:32:00
empty_table = {}
empty_array = []

[table] # comment
key = 5

[ table . "sub table" ]
key = 'it''s' # never
'''.replace("'it''s' # never", "'its'")

ARRAYS = """\
[[fruit]]
name = "apple"

  [fruit.physical]
  color = "red"

  [[fruit.varieties]]
  name = "red delicious"

  [[fruit.varieties]]
  name = "granny smith"

[[fruit]]
name = "banana"

[[fruit.varieties]]
name = "plantain"
"""


def paths_of(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths_of(item, (*path, str(index)))


@pytest.mark.parametrize("document", [TRICKY, ARRAYS, TRICKY.replace("\n", "\r\n"), "", "a=1"])
def test_every_parsed_key_has_a_line_and_nothing_else_has(document: str) -> None:
    assert set(key_lines(document)) == set(paths_of(tomllib.loads(document)))


def line_of(text: str) -> int:
    return next(n for n, row in enumerate(TRICKY.splitlines(), 1) if row.startswith(text))


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (("top",), "top"),
        (("quoted key",), '"quoted'),
        (("literal.key",), "'literal"),
        (("a", "b", "c.d"), "a . b"),
        (("text",), "text"),
        (("raw",), "raw"),
        (("tail",), "tail"),
        (("array",), "array"),
        (("array", "2", "1"), "    4]"),
        (("array", "3", "y", "z"), "  { x"),
        (("point", "y z"), "point"),
        (("point", "deep", "er"), "point"),
        (("when",), "when"),
        (("table",), "[table]"),
        (("table", "key"), "key = 5"),
        (("table", "sub table"), "[ table"),
        (("table", "sub table", "key"), "key = 'its'"),
    ],
)
def test_a_key_is_found_on_its_own_line(path: KeyPath, start: str) -> None:
    assert key_lines(TRICKY)[path] == line_of(start)


def test_items_of_arrays_of_tables_are_told_apart() -> None:
    lines = key_lines(ARRAYS)
    assert lines["fruit", "0", "name"] == 2
    assert lines["fruit", "0", "physical", "color"] == 5
    assert lines["fruit", "0", "varieties", "1", "name"] == 11
    assert lines["fruit", "1", "varieties", "0", "name"] == 17


def test_a_dotted_key_reads_back_as_its_parts() -> None:
    path = ("model", "my model", 'with "quotes"', "plain-1")
    assert parse_key(dotted(path)) == path


@pytest.mark.parametrize("text", ["", "a b", "a.", ".a", "a = 1\nb", "[a]"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_key(text)
