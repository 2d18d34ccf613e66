"""What each objective makes of examples, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipe_parts import write

import llmforge
from llmforge import hookimpl
from llmforge.data.example_batches import ExampleBatches, example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit, prepare_examples
from llmforge.errors import DataError, PluginError, RecipeError
from llmforge.interfaces import (
    IGNORE_INDEX,
    Conversation,
    Example,
    ExampleLayout,
    Message,
    Objective,
    Row,
    TextExample,
)
from llmforge.plugins import load
from llmforge.recipe import load_recipe
from llmforge.testing import TinyChatTokenizer, example_encoder, run_context
from llmforge.testing.contracts.base import build

_EOS, _BOS, _MASK = 256, 257, 258


def objective(name: str, path: Path, **options: Any) -> Objective:
    component = load("objective", name)
    found: Objective = component(component.Options(**options)).forge_build_objective(
        run_context(path, context=64)
    )
    found.open(example_encoder(context=64))
    return found


def asked(question: str, answer: str) -> Conversation:
    return Conversation(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        source="talk.jsonl:1",
    )


class Examples:
    """A few examples in memory."""

    splits = ("train", "validation")
    description = "examples in memory"
    labels = ("no", "yes")

    def __init__(self, *examples: Example) -> None:
        self._examples = examples
        self.fingerprint = str(hash(examples))
        self.layout = ExampleLayout(truncate="right")

    def examples(self, _: str) -> Any:
        return iter(self._examples)


def rows_of(made: Objective, path: Path, *examples: Example, context: int = 64) -> ExampleSplit:
    found = prepare_examples(
        Examples(*examples),
        TinyChatTokenizer(),
        objective=made,
        context=context,
        cache=path,
        notice=lambda _: None,
        check_stop=lambda: None,
    )
    return found["train"]


def test_forge_build_objective_makes_what_makes_the_rows(tmp_path: Path) -> None:
    class Halves(Objective):
        key = ("halves",)

        def rows(self, example: Example, encoder: Any) -> Any:
            total, rows = super().rows(example, encoder)
            return total, [Row(row.ids[::2], row.scored[::2]) for row in rows]

    class Halved(llmforge.Component, kind="objective"):
        """Learns every second token."""

        supports = frozenset({"next_token"})

        @hookimpl
        def forge_build_objective(self) -> Objective:
            return Halves()

    example = asked("Why is it so?", "Because.")
    whole = rows_of(Objective(), tmp_path, example)
    made = build(Halved(), "forge_build_objective", run=run_context(tmp_path))
    half = rows_of(made, tmp_path, example)
    assert half.row(0)[0].tolist() == whole.row(0)[0][::2].tolist()


def test_an_objective_of_another_form_that_makes_no_batches_is_named(tmp_path: Path) -> None:
    class Pairs(Objective):
        form = "pairs"

    split = rows_of(Pairs(), tmp_path, asked("Why is it so?", "Because."))
    batches = ExampleBatches(split, context=64, batch_size=1, seed=1)
    with pytest.raises(PluginError, match="Pairs of the form 'pairs' makes no batches"):
        batches.batch(0, 1)


# seq2seq


def test_a_source_and_its_target_have_their_special_tokens(tmp_path: Path) -> None:
    made = objective("seq2seq", tmp_path, prefix="say: ")
    split = rows_of(made, tmp_path, asked("ab", "xyz"), asked("a longer question", "q"))
    batch = ExampleBatches(split, context=64, batch_size=2, seed=1).batch(0, 2)
    row = [int(length) for length in batch["lengths"]].index(len("say: ab") + 2)
    assert batch["inputs"][row, :9].tolist() == [_BOS, *b"say: ab", _EOS]
    assert batch["targets"][row, :5].tolist() == [_BOS, *b"xyz", _EOS]
    assert (batch["targets"][row, 5:] == IGNORE_INDEX).all()
    assert split.tally.targets == len("xyz") + len("q") + 4


def test_a_long_source_is_cut_before_its_end_token(tmp_path: Path) -> None:
    made = objective("seq2seq", tmp_path, target_context=8)
    split = rows_of(made, tmp_path, asked("s" * 100, "t" * 100), context=16)
    ids, scored = split.row(0)
    assert ids[:16].tolist() == [_BOS, *b"s" * 14, _EOS]
    assert ids[16:].tolist() == [_BOS, *b"t" * 6, _EOS]
    assert scored.tolist() == [0] * 16 + [1] * 8
    assert split.tally.truncated == 1


def test_a_prompt_is_a_source(tmp_path: Path) -> None:
    made = objective("seq2seq", tmp_path, prefix="say: ")
    assert list(made.prompt("ab", example_encoder()) or ()) == [_BOS, *b"say: ab", _EOS]


# classify


def test_a_text_is_scored_by_its_label_alone(tmp_path: Path) -> None:
    made = objective("classify", tmp_path)
    texts = [
        TextExample(text="ab", label=1, source="a:1"),
        TextExample(text="c", pair="d", label=0, source="a:2"),
    ]
    split = rows_of(made, tmp_path, *texts)
    batches = ExampleBatches(split, context=64, batch_size=2, seed=1)
    batch = batches.batch(0, 2)
    found = {
        int(label): row[:length].tolist()
        for label, row, length in zip(
            batch["targets"], batch["inputs"], batch["lengths"], strict=True
        )
    }
    assert found == {1: [_BOS, *b"ab", _EOS], 0: [_BOS, *b"c", _EOS, *b"d", _EOS]}
    assert batches.targets(0, 2) == 2


def test_a_text_without_a_label_is_refused_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a:7: it has no label"):
        rows_of(objective("classify", tmp_path), tmp_path, TextExample(text="x", source="a:7"))


# mlm


def test_as_many_tokens_are_hidden_as_the_cache_says_and_others_each_epoch(
    tmp_path: Path,
) -> None:
    made = objective("mlm", tmp_path)
    texts = [TextExample(text=letter * 40, source="a:1") for letter in "abcd"]
    split = rows_of(made, tmp_path, *texts)
    batches = ExampleBatches(split, context=64, batch_size=4, seed=1)
    first, second = batches.batch(0, 4), batches.batch(4, 4)
    hidden = first["targets"] != IGNORE_INDEX
    assert int(hidden.sum()) == batches.targets(0, 4) == 4 * round(40 * 0.15)
    assert not bool((first["inputs"] == second["inputs"]).all())
    lengths = first["lengths"]
    assert lengths.tolist() == [42] * 4
    specials = (first["targets"] == _BOS) | (first["targets"] == _EOS)
    assert not bool(specials.any())
    again = ExampleBatches(split, context=64, batch_size=4, seed=1)
    whole = np.concatenate([again.batch(0, 1)["inputs"], again.batch(1, 3)["inputs"]])
    assert (whole == first["inputs"].numpy()).all()


def test_eight_of_ten_hidden_tokens_are_masked_and_one_is_another(tmp_path: Path) -> None:
    made = objective("mlm", tmp_path, share=0.5)
    split = rows_of(made, tmp_path, *[TextExample(text="a" * 60, source="a:1")] * 200)
    (batch,) = example_evaluation_batches(split, context=64, batch_size=200)
    hidden = batch["targets"] != IGNORE_INDEX
    shown = batch["inputs"].gather(1, batch["places"])[hidden]
    assert 0.76 < float((shown == _MASK).double().mean()) < 0.84
    assert 0.07 < float((shown == ord("a")).double().mean()) < 0.13
    (again,) = example_evaluation_batches(split, context=64, batch_size=200)
    assert bool((again["inputs"] == batch["inputs"]).all())


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    class Unmasked(TinyChatTokenizer):
        mask_token = None

    component = load("objective", "mlm")
    made = component().forge_build_objective(run_context(tmp_path))
    with pytest.raises(DataError, match="no token that stands for a hidden one"):
        prepare_examples(
            Examples(TextExample(text="x", source="a:1")),
            Unmasked(),
            objective=made,
            context=16,
            cache=tmp_path,
            notice=lambda _: None,
            check_stop=lambda: None,
        )


# next_token


def test_of_a_plain_text_everything_is_learned_and_its_end(tmp_path: Path) -> None:
    total, (row,) = objective("next_token", tmp_path).rows(
        TextExample(text="ab", source="a:1"), example_encoder()
    )
    assert row.ids == (_BOS, *b"ab", _EOS)
    assert row.scored == (False, True, True, True)
    assert total == 4


# recipes


def test_a_model_is_not_trained_for_what_it_is_not_made_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.toml",
        'extends = "alpaca_custom_tiny"\n[objective]\nname = "classify"\n',
    )
    with pytest.raises(RecipeError, match="'transformer' is not made for 'classify'"):
        load_recipe(path)


def test_running_text_has_no_examples(tmp_path: Path) -> None:
    path = write(tmp_path / "r.toml", 'extends = "wikitext_tiny"\n[objective]\nname = "seq2seq"\n')
    with pytest.raises(RecipeError, match="'seq2seq' learns from examples"):
        load_recipe(path)


def test_next_token_prediction_is_the_same_run_said_or_not(tmp_path: Path) -> None:
    from llmforge.recipe import identity

    said = write(
        tmp_path / "r.toml", 'extends = "wikitext_tiny"\n[objective]\nname = "next_token"\n'
    )
    assert identity(load_recipe(said)).hash == identity(load_recipe("wikitext_tiny")).hash
    assert "objective.name" not in identity(load_recipe(said)).keys
