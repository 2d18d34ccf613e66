"""Loss, perplexity and bits per byte, against a computation by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llmforge.data.split import TokenSplit
from llmforge.interfaces import IGNORE_INDEX, Batch, TokenShard
from llmforge.run.evaluation import evaluate


def split(n_tokens: int, *, n_bytes: int | None) -> TokenSplit:
    """A split of the tokens 0, 1, 2 … in two shards."""
    ids = np.array_split(np.arange(n_tokens, dtype="<u2"), 2)
    shards = tuple(TokenShard(name="none", path=Path("none"), ids=part) for part in ids)
    return TokenSplit(shards=shards, n_bytes=n_bytes, documents=1)


def costs_its_number(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """A model whose loss on the target ``t`` is ``t / 10`` nats."""
    targets = batch["targets"]
    scored = targets[targets != IGNORE_INDEX]
    return scored.sum() / 10, torch.tensor(scored.numel())


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("context", [3, 4, 100])
def test_the_values_are_those_computed_by_hand(context: int, batch_size: int) -> None:
    values = evaluate(
        costs_its_number, split(11, n_bytes=40), name="val", context=context, batch_size=batch_size
    )
    # Targets 1 to 10: 5.5 nats over 10 tokens, 0.55 each; 5.5 / ln 2 bits over 40 bytes.
    assert values is not None
    assert values["val/loss"] == pytest.approx(0.55)
    assert values["val/perplexity"] == pytest.approx(math.exp(0.55))
    assert values["val/bits_per_byte"] == pytest.approx(5.5 / math.log(2) / 40)


def test_a_hopeless_loss_has_a_finite_perplexity() -> None:
    def hopeless(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(1e6), torch.tensor(1)

    values = evaluate(hopeless, split(2, n_bytes=1), name="val", context=4, batch_size=1)
    assert values is not None
    assert math.isfinite(values["val/perplexity"])


def test_it_stops_between_batches_without_values() -> None:
    seen: list[int] = []

    def counted(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(1)
        return costs_its_number(batch)

    stopped = evaluate(
        counted,
        split(11, n_bytes=40),
        name="val",
        context=2,
        batch_size=1,
        stop=lambda: len(seen) == 2,
    )
    assert stopped is None
    assert len(seen) == 2


def test_out_of_memory_halves_the_batch_and_scores_everything_once() -> None:
    rows: list[int] = []

    def limited(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows.append(batch["inputs"].shape[0])
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("too much")
        return costs_its_number(batch)

    values = evaluate(limited, split(17, n_bytes=40), name="test", context=2, batch_size=8)
    assert values is not None
    assert values["test/loss"] == pytest.approx(sum(range(1, 17)) / 10 / 16)
    assert rows[:2] == [8, 4]
    assert set(rows[2:]) == {2}


def test_out_of_memory_with_one_sequence_is_an_error() -> None:
    def full(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(full, split(9, n_bytes=9), name="val", context=2, batch_size=4)


def test_without_known_text_there_are_no_bits_per_byte() -> None:
    values = evaluate(
        costs_its_number, split(11, n_bytes=None), name="val", context=4, batch_size=2
    )
    assert values is not None
    assert set(values) == {"val/loss", "val/perplexity"}
