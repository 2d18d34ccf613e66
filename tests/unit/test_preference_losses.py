"""The objective ``dpo`` beside its papers' formulas, written down here once more in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import built, save
from pydantic import ValidationError
from recipe_parts import write
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmforge.data.example_batches import ExampleBatches, example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit, prepare_examples
from llmforge.distributed import Alone
from llmforge.errors import CheckpointError, DataError, RecipeError
from llmforge.interfaces import (
    IGNORE_INDEX,
    REFERENCE,
    Conversation,
    ExampleLayout,
    Message,
    Preference,
    Resolution,
    TextExample,
)
from llmforge.recipe import load_recipe
from llmforge.recipe.measured import measured
from llmforge.run.objective_loss import take_over_loss
from llmforge.run.setup.reference import Reference, find_or_compute, read_reference
from llmforge.run.training.evaluation import evaluate
from llmforge.rundir import RunDirectory
from llmforge.testing import TinyChatTokenizer, TinyModel, example_encoder, make_component
from llmforge.testing.context import run_context
from llmforge_plugins.backends._engine import SingleEngine
from llmforge_plugins.models._shape import Shape
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.objectives._dpo import PreferencePairs
from llmforge_plugins.objectives.dpo import DirectPreference

CONTEXT, BATCH, STEPS, LR = 32, 8, 20, 1e-3
VOCABULARY = TinyChatTokenizer.vocab_size

LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {"loss": "sigmoid", "beta": 0.3},
    "cdpo": {"loss": "sigmoid", "beta": 0.3, "label_smoothing": 0.1},
    "ipo": {"loss": "ipo", "beta": 0.5},
    "simpo": {"loss": "simpo", "beta": 2.5, "gamma": 0.8},
    "orpo": {"loss": "orpo", "odds_weight": 0.2},
}


def objective(**options: Any) -> PreferencePairs:
    found = make_component(DirectPreference, options, name="dpo")
    made = found.forge_build_objective(run=run_context(Path()))
    made.open(example_encoder(context=CONTEXT))
    assert isinstance(made, PreferencePairs)
    return made


def pair(asked: str, chosen: str, rejected: str) -> Preference:
    return Preference(
        prompt=(Message(role="user", content=asked),),
        chosen=Message(role="assistant", content=chosen),
        rejected=Message(role="assistant", content=rejected),
        source="pairs.jsonl:1",
    )


class Pairs:
    """Pairs of answers in memory."""

    splits = ("train", "validation")
    fingerprint = "pairs"
    description = "pairs in memory"

    def __init__(self, *pairs: Preference, truncate: Any = "right") -> None:
        words = ("sea", "a hill", "rain", "no", "the town", "yes")
        self._pairs = pairs or tuple(
            pair("q" * (number % 4), words[number % 6] * (1 + number % 3), words[-1 - number % 5])
            for number in range(19)
        )
        self.fingerprint = str(hash(self._pairs))
        self.layout = ExampleLayout(train_on="last_response", truncate=truncate, packing=False)

    def examples(self, _: str) -> Iterator[Preference]:
        return iter(self._pairs)


def rows_of(
    made: PreferencePairs, path: Path, *pairs: Preference, truncate: Any = "right"
) -> dict[str, ExampleSplit]:
    return prepare_examples(
        Pairs(*pairs, truncate=truncate),
        TinyChatTokenizer(),
        objective=made,
        context=CONTEXT,
        cache=path,
        notice=lambda _: None,
        check_stop=lambda: None,
    )


def transformer(_: Path) -> Any:
    torch.manual_seed(4)
    shape = Shape(
        layers=2, width=32, heads=2, kv_heads=2, head_size=16, feed_forward=64, context=CONTEXT
    )
    return TransformerModel(shape, vocab_size=VOCABULARY)


def hf_causal(path: Path) -> Any:
    return built(path, save(path / "gpt2", "gpt2", vocab_size=VOCABULARY), vocab_size=VOCABULARY)


def engine_of(model: Any, made: PreferencePairs) -> SingleEngine:
    take_over_loss(model, made)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for group in optimizer.param_groups:
        group["initial_lr"] = LR
    resolution = Resolution(device="cpu", precision="fp32", compile=False, hardware="CPU")
    model.train()
    return SingleEngine(model, optimizer, lambda _: 1.0, resolution=resolution, grad_clip=0.0)


def reference_of(
    splits: Any, engine: SingleEngine, path: Path, *, of: str = "data", rows: int = 3, **more: Any
) -> Reference:
    path.mkdir(exist_ok=True)
    settings = {"checkpoint": None, "expected": None, **more}
    return find_or_compute(
        splits,
        engine,
        of=of,
        directory=RunDirectory(path),
        rows=rows,
        context=CONTEXT,
        team=Alone(),
        check_stop=lambda: None,
        **settings,
    )


# By hand ----------------------------------------------------------------------------------------


def plain_log_probs(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and lengths of the answers, [pairs, 2], from whole logits."""
    inputs, targets = (batch[name].flatten(0, 1) for name in ("inputs", "targets"))
    chances = torch.log_softmax(model(inputs), dim=-1)
    scored = targets != IGNORE_INDEX
    found = chances.gather(2, targets.where(scored, 0)[:, :, None])[:, :, 0]
    return (found * scored).sum(1).view(-1, 2), scored.sum(1).view(-1, 2)


def by_hand(name: str, model: Any, frozen: Any, batch: Any) -> Tensor:
    """Return the mean loss of a batch of pairs."""
    options = LOSSES[name]
    (chosen, rejected), (long, short) = (found.T for found in plain_log_probs(model, batch))
    with torch.no_grad():
        was_chosen, was_rejected = plain_log_probs(frozen, batch)[0].T
    ratio = (chosen - was_chosen) - (rejected - was_rejected)
    if name in ("dpo", "cdpo"):  # Rafailov et al., equation 7; Mitchell, equation 3
        beta, wrong = options["beta"], options.get("label_smoothing", 0.0)
        losses = -(1 - wrong) * logsigmoid(beta * ratio) - wrong * logsigmoid(-beta * ratio)
    elif name == "ipo":  # Azar et al., equation 17
        losses = (ratio - 1 / (2 * options["beta"])) ** 2
    elif name == "simpo":  # Meng et al., equation 6
        beta = options["beta"]
        losses = -logsigmoid(beta / long * chosen - beta / short * rejected - options["gamma"])
    else:  # Hong et al., equations 3 to 7
        likely, unlikely = torch.exp(chosen / long), torch.exp(rejected / short)
        odds = (likely / (1 - likely)) / (unlikely / (1 - unlikely))
        losses = -chosen / long - options["odds_weight"] * logsigmoid(torch.log(odds))
    return losses.mean()


@pytest.mark.parametrize("model_of", [transformer, hf_causal])
@pytest.mark.parametrize("name", LOSSES)
def test_twenty_steps_are_those_of_the_formula(
    tmp_path: Path, name: str, model_of: Callable[[Path], Any]
) -> None:
    made = objective(**LOSSES[name])
    model = model_of(tmp_path)
    plain, frozen = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR)
    splits: Any = rows_of(made, tmp_path)
    engine = engine_of(model, made)
    if made.needs_reference:
        splits = reference_of(splits, engine, tmp_path / "run").put_into(splits)
    batches = ExampleBatches(splits["train"], context=CONTEXT, batch_size=BATCH, seed=3)
    for step in range(STEPS):
        expected = by_hand(name, plain, frozen, batches.batch(step * BATCH, BATCH))
        expected.backward()
        optimizer.step()
        optimizer.zero_grad()
        targets = batches.targets(step * BATCH, BATCH)
        assert targets == BATCH
        for start in (0, 4):
            batch = batches.batch(step * BATCH + start, 4)
            engine.accumulate(batch, targets=targets, seed=0, last=start == 4)
        loss = engine.step(step).loss_sum / targets
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_an_evaluation_measures_margin_and_accuracy(tmp_path: Path, name: str) -> None:
    made = objective(**LOSSES[name])
    model = transformer(tmp_path)
    frozen = copy.deepcopy(model).eval()
    splits: Any = rows_of(made, tmp_path)
    engine = engine_of(model, made)
    if made.needs_reference:
        splits = reference_of(splits, engine, tmp_path / "run").put_into(splits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    split = splits["validation"]
    found = evaluate(engine.evaluate, split, name="val", context=CONTEXT, batch_size=5)
    (whole,) = example_evaluation_batches(split, context=CONTEXT, batch_size=split.rows)
    with torch.no_grad():
        loss = by_hand(name, model, frozen, whole)
        scores, lengths = plain_log_probs(model, whole)
        before = plain_log_probs(frozen, whole)[0]
    rewards = {
        "dpo": 0.3 * (scores - before),
        "cdpo": 0.3 * (scores - before),
        "ipo": 0.5 * (scores - before),
        "simpo": 2.5 * scores / lengths,
        "orpo": 0.2 * scores / lengths,
    }[name]
    margin = rewards[:, 0] - rewards[:, 1]
    assert found is not None
    assert found == pytest.approx(
        {
            "val/loss": float(loss),
            "val/reward_margin": float(margin.mean()),
            "val/reward_accuracy": float((margin > 0).float().mean()),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_how_a_batch_is_divided_changes_no_gradient(tmp_path: Path, name: str) -> None:
    made = objective(**LOSSES[name])
    splits: Any = rows_of(made, tmp_path)
    engine = engine_of(transformer(tmp_path), made)
    if made.needs_reference:
        splits = reference_of(splits, engine, tmp_path / "run").put_into(splits)
    with torch.no_grad():  # or sigmoid losses would all be the same
        for parameter in engine.model.parameters():  # type: ignore[attr-defined]
            parameter.add_(torch.randn_like(parameter) * 0.02)
    batches = ExampleBatches(splits["train"], context=CONTEXT, batch_size=BATCH, seed=3)
    found = {}
    for micro in (1, 2, 8):
        for start in range(0, BATCH, micro):
            engine.accumulate(batches.batch(start, micro), targets=BATCH, seed=0, last=False)
        found[micro] = {key: value.clone() for key, value in engine.gradients().items()}
        engine.discard()
    for micro in (1, 2):
        for key, whole in found[8].items():
            torch.testing.assert_close(found[micro][key], whole, rtol=1e-4, atol=1e-6)


# The reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model_of", [transformer, hf_causal])
def test_the_reference_is_of_the_model_as_it_starts(
    tmp_path: Path, model_of: Callable[[Path], Any]
) -> None:
    made = objective()
    model = model_of(tmp_path)
    frozen = copy.deepcopy(model).eval()
    splits = rows_of(made, tmp_path)
    found = reference_of(splits, engine_of(model, made), tmp_path / "run")
    split = splits["train"]
    (whole,) = example_evaluation_batches(split, context=CONTEXT, batch_size=split.rows)
    order = np.argsort(-split.inputs, kind="stable")
    with torch.no_grad():
        expected = plain_log_probs(frozen, whole)[0]
    torch.testing.assert_close(
        torch.from_numpy(found.values["train"][order]), expected, rtol=1e-5, atol=1e-5
    )
    assert found.values.keys() == {"train", "validation"}


def test_it_is_computed_once_and_never_of_changed_weights(tmp_path: Path) -> None:
    made, run = objective(), tmp_path / "run"
    splits = rows_of(made, tmp_path)
    engine = engine_of(transformer(tmp_path), made)
    first = reference_of(splits, engine, run)
    content = (run / "reference.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in engine.model.parameters():  # type: ignore[attr-defined]
            parameter.add_(1.0)
    again = reference_of(splits, engine, run, expected=first.sha256)
    assert again.sha256 == first.sha256
    assert (run / "reference.safetensors").read_bytes() == content
    # elsewhere it comes from the checkpoint, and is kept in the run again
    checkpoint, elsewhere = tmp_path / "checkpoint", tmp_path / "elsewhere"
    checkpoint.mkdir()
    (checkpoint / "reference.safetensors").write_bytes(content)
    moved = reference_of(splits, engine, elsewhere, checkpoint=checkpoint, expected=first.sha256)
    assert moved.sha256 == first.sha256
    assert (elsewhere / "reference.safetensors").read_bytes() == content
    # without any copy, what the weights of now give is refused
    with pytest.raises(CheckpointError, match="is not what this run was started with"):
        reference_of(splits, engine, tmp_path / "lost", expected=first.sha256)
    assert not (tmp_path / "lost" / "reference.safetensors").exists()


def test_a_damaged_one_is_replaced_by_the_checkpoints(tmp_path: Path) -> None:
    made, run = objective(), tmp_path / "run"
    splits = rows_of(made, tmp_path)
    engine = engine_of(transformer(tmp_path), made)
    first = reference_of(splits, engine, run)
    path = run / "reference.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-3], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"cannot be read|was altered"):
            read_reference(path, of="data")
        checkpoint = tmp_path / "checkpoint"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "reference.safetensors").write_bytes(content)
        found = reference_of(splits, engine, run, checkpoint=checkpoint, expected=first.sha256)
        assert found.sha256 == first.sha256
        assert path.read_bytes() == content
    assert read_reference(path, of="other data") is None
    assert read_reference(run / "none", of="data") is None


def test_batches_carry_it_bit_by_bit(tmp_path: Path) -> None:
    made = objective()
    splits: Any = rows_of(made, tmp_path)
    engine = engine_of(transformer(tmp_path), made)
    found = reference_of(splits, engine, tmp_path / "run")
    split = found.put_into(splits)["train"]
    assert isinstance(split, ExampleSplit)
    batches = ExampleBatches(split, context=CONTEXT, batch_size=4, seed=3)
    carried = batches.batch(0, 4)[REFERENCE]
    assert carried.dtype == torch.int32
    rows = batches.order.windows(0, 4)
    assert torch.equal(carried.view(torch.float32), torch.from_numpy(found.values["train"][rows]))


# Rows -------------------------------------------------------------------------------------------


def test_only_the_answers_and_the_ends_of_their_turns_are_learned(tmp_path: Path) -> None:
    made = objective()
    split = rows_of(made, tmp_path, pair("ab", "xyz", "no"))["train"]
    chosen, rejected = made.parts(*split.row(0))
    eos = TinyChatTokenizer.eos_id
    for (name, ids, learned), expected, text in (
        (chosen, "chosen", b"xyz"),
        (rejected, "rejected", b"no"),
    ):
        assert name == expected
        assert ids[learned].tolist() == [*text, eos]
        assert bytes(ids[~learned][:8].tolist()) == b"user: ab"
    assert split.tally.targets == 1
    assert split.learned.tolist() == [len("xyz") + len("no") + 2]


def test_a_long_pair_is_cut_or_left_out(tmp_path: Path) -> None:
    made, short = objective(), pair("a", "b", "c")
    long = pair("a", "x" * 100, "c")
    dropped = rows_of(made, tmp_path, short, long, truncate="drop")["train"]
    assert (dropped.rows, dropped.tally.dropped) == (1, 1)
    cut = rows_of(made, tmp_path, short, long)["train"]
    assert (cut.rows, cut.tally.truncated) == (2, 1)
    for _, ids, _ in made.parts(*cut.row(1)):
        assert len(ids) <= CONTEXT + 1
    hidden = rows_of(made, tmp_path, short, pair("a" * 100, "b", "c"))["train"]
    assert (hidden.rows, hidden.tally.unlearned) == (1, 1)


def test_other_examples_are_refused_where_they_stand() -> None:
    talk = Conversation(messages=(Message(role="user", content="a"),), source="a:1")
    for example in (talk, TextExample(text="x", source="a:1")):
        with pytest.raises(DataError, match="it has no pair of answers"):
            objective().rows(example, example_encoder())


# Options and recipes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, 'label_smoothing = 0.1 is of "sigmoid"'),
        ({"gamma": 0.5}, 'gamma = 0.5 is of "simpo", not "sigmoid"'),
        ({"loss": "orpo", "beta": 0.1}, 'beta = 0.1 is of "sigmoid" and "ipo" and "simpo"'),
        ({"loss": "simpo", "odds_weight": 0.3}, 'odds_weight = 0.3 is of "orpo"'),
        ({"beta": 0.0}, "greater than 0"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"loss": "kto"}, "'sigmoid', 'ipo', 'simpo' or 'orpo'"),
    ],
)
def test_options_that_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DirectPreference.Options(**options)


def test_log_odds_are_finite_for_a_certain_answer() -> None:
    made = objective(loss="orpo")

    class Certain(TinyModel):
        def sequence_log_probs(self, batch: Any) -> tuple[Tensor, Tensor]:
            found, counts = super().sequence_log_probs(batch)
            return found * 0.0, counts

    (row,) = made.rows(pair("a", "b", "c"), example_encoder())[1]
    arrays = made.batch([(np.array(row.ids), np.array(row.scored))], context=CONTEXT, seeds=[0])
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    loss, _ = made.loss(Certain(VOCABULARY, context=CONTEXT), batch)
    assert torch.isfinite(loss)


_BASE = 'extends = "preference_dpo"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[data]\nname = "instruct"\n[data.instruct]\nsample = true\n',
            "'dpo' learns from pairs of answers, which data 'instruct' does not have",
        ),
        ('[data]\nname = "wikitext"\n', "which data 'wikitext' does not have"),
        (
            '[objective]\nname = "next_token"\n',
            "data 'preference' is pairs of answers, from which 'next_token' does not learn",
        ),
        (
            '[model]\nname = "hf-seq2seq"\n[model.hf-seq2seq]\npath = "t5"\n',
            "its component does not say supports = {'sequence_log_probs'}",
        ),
        (
            '[early_stopping]\nmetric = "val/perplexity"\n',
            "known: val/loss, val/reward_margin, val/reward_accuracy",
        ),
        (
            '[metric]\nnames = ["chrf"]\n',
            "data 'preference' has no answers to compare with",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_clear_problem(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path / "r.toml", _BASE + text))
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_early_stopping_may_ask_for_what_is_measured(tmp_path: Path) -> None:
    text = '[early_stopping]\nmetric = "val/reward_accuracy"\n'
    recipe = load_recipe(write(tmp_path / "r.toml", _BASE + text))
    known = measured(recipe.selections)
    assert known["val/reward_accuracy"] == known["val/reward_margin"] == "maximize"
    plain = load_recipe("alpaca_custom_tiny")
    assert "val/reward_accuracy" not in measured(plain.selections)
