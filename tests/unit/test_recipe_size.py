"""A recipe loads in time proportional to its size, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.errors import RecipeError
from llmforge.recipe import load_recipe
from llmforge.redaction import HIDDEN, redact

SIZE = 1_000_000

TEXTS = {
    "letters": "x",
    "words": "ab ",
    "schemes": "http://a:b",
    "queries": "?a=",
    "long query": "token",
    "dots": ".",
    "braces": "{",
    "key beginnings": "-----BEGIN ",
    "keys": "-----BEGIN PRIVATE KEY-----",
    "headers": "authorization ",
    "tokens": "hf_",
    "accounts": "AKIA",
}


# Anything quadratic takes minutes to hours here.
@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", TEXTS.values(), ids=TEXTS)
def test_a_megabyte_of_text_is_read_at_once(tmp_path: Path, unit: str) -> None:
    text = "?" + unit * (SIZE // len(unit))
    path = tmp_path / "r.toml"
    path.write_text(f'extends = "wikitext_tiny"\nrun.notes = "{text}"\n', encoding="utf-8")
    if unit.startswith("-----BEGIN PRIVATE"):
        with pytest.raises(RecipeError, match="holds a credential"):
            load_recipe(path)
        assert HIDDEN in redact(text)
    else:
        assert load_recipe(path).run.notes == text
        redact(text)


@pytest.mark.timeout(60)
def test_many_keys_and_items_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    items = ", ".join(f'"tag-{index}"' for index in range(50_000))
    keys = "\n".join(f"zz.k{index} = 1" for index in range(30_000))
    path.write_text(f'extends = "wikitext_tiny"\nrun.tags = [{items}]\n{keys}\n', "utf-8")
    with pytest.raises(RecipeError, match="zz: unknown table"):
        load_recipe(path)


def test_a_message_does_not_repeat_a_huge_value(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f'extends = "wikitext_tiny"\n{"k" * SIZE} = 1\ntrain.device = "{"x" * SIZE}"', "utf-8"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    shown = str(caught.value)
    assert len(shown) < 4000
    assert "must be auto, cpu, cuda, cuda:N or mps" in shown
    assert len(caught.value.problems) == 2
