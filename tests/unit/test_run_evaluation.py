"""Loss, perplexity and bits per byte, against a computation by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmforge.data.shards import TokenSplit
from llmforge.interfaces import IGNORE_INDEX, Batch, TokenShard
from llmforge.run.training import evaluation
from llmforge.run.training.evaluation import evaluate, rows_at_once
from llmforge.testing import TinyModel


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


class Model(torch.nn.Module):
    """Eight activations a token, in two matrices and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 3)
        self.outer = torch.nn.Linear(3, 5)


CPU = torch.device("cpu")
A_TOKEN = 8 * 8
"""Bytes that a token of :class:`Model` counts for."""


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize(
    ("threads", "context", "rows"),
    [
        (1, 32, 128),
        (2, 32, 128),
        (4, 32, 256),
        (64, 32, 1024),
        (2, 1024, 4),
        (2, 4096, 1),
        (2, 40_000, 1),
    ],
)
def test_so_many_windows_are_evaluated_at_once_as_make_enough_tokens(
    threads: int, context: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert rows_at_once(Model(), context=context, device=CPU) == rows  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free", "sharing", "rows"),
    [
        (2 * 128 * 32 * A_TOKEN, 1, 128),
        (2 * 128 * 32 * A_TOKEN - 1, 1, 64),
        (2 * 128 * 32 * A_TOKEN, 4, 32),
        (0, 1, 6),
    ],
)
@pytest.mark.usefixtures("_two_threads")
def test_where_memory_is_short_they_are_fewer_but_never_less_than_trained_on(
    free: int, sharing: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=free)
    monkeypatch.setattr(evaluation.psutil, "virtual_memory", lambda: memory)
    found = rows_at_once(Model(), context=32, device=CPU, least=6, sharing=sharing)  # type: ignore[arg-type]
    assert found == rows


def test_a_model_that_tells_no_sizes_is_evaluated_with_what_is_known_to_fit() -> None:
    empty = torch.nn.Module()
    assert rows_at_once(empty, context=32, device=CPU, least=6) == 6  # type: ignore[arg-type]


def test_the_values_do_not_depend_on_how_many_windows_are_computed_at_once() -> None:
    torch.manual_seed(1)
    model = TinyModel(97, context=16)
    ids = torch.randint(97, (50_000,), generator=torch.Generator().manual_seed(2))
    shard = TokenShard(name="none", path=Path("none"), ids=ids.numpy().astype("<u2"))
    whole = TokenSplit(shards=(shard,), n_bytes=200_000, documents=1)
    found = []
    for rows in (1, 8, 100, 1024, 5000):
        with torch.no_grad():
            values = evaluate(model.loss, whole, name="val", context=16, batch_size=rows)
        assert values is not None
        found.append(values)
    for values in found[1:]:
        assert values == pytest.approx(found[0], rel=1e-6)


def test_what_fits_is_told_and_is_never_more_than_there_is() -> None:
    told: list[int] = []
    rows: list[int] = []

    def limited(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows.append(batch["inputs"].shape[0])
        if rows[-1] > 3:
            raise torch.OutOfMemoryError("too much")
        return costs_its_number(batch)

    small = split(17, n_bytes=40)  # 8 windows
    evaluate(limited, small, name="val", context=2, batch_size=512, fewer=told.append)
    assert told == [4, 2]
    assert rows[:3] == [8, 4, 2]
