"""Examples packed into rows, and rows of like length in one batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_parts import Examples, prepare
from transformer_parts import small_shape

from llmforge.data.example_batches import ExampleBatches, example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.order import LengthOrder
from llmforge.data.packing import first_fit_decreasing
from llmforge.interfaces import IGNORE_INDEX, Batch, Objective
from llmforge.run.setup.build import PreparedData
from llmforge.run.setup.example_packing import packing_line, packs_examples
from llmforge.run.training.evaluation import evaluate
from llmforge.testing.context import run_context
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models.transformer import Transformer
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

CONTEXT = 32


def drawn_lengths(seed: int, *, largest: int = 40, most: int = 90) -> tuple[np.ndarray, int]:
    draw = np.random.default_rng(seed)
    capacity = int(draw.integers(1, largest))
    return draw.integers(1, capacity + 1, int(draw.integers(1, most))), capacity


def first_fit(lengths: list[int], capacity: int) -> list[int]:
    """Return the bin of each length, put in one by one."""
    rooms: list[int] = []
    bins = [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fitting = (place for place, room in enumerate(rooms) if room >= lengths[number])
        bins[number] = next(fitting, len(rooms))
        if bins[number] == len(rooms):
            rooms.append(capacity)
        rooms[bins[number]] -= lengths[number]
    return bins


@pytest.mark.parametrize("seed", range(40))
def test_bins_are_those_of_first_fit_decreasing(seed: int) -> None:
    lengths, capacity = drawn_lengths(seed)
    bins = first_fit_decreasing(lengths, capacity)
    assert sorted(bins.members) == list(range(len(lengths)))
    assert bins.sums(lengths).max() <= capacity
    found = np.empty(len(lengths), int)
    found[bins.members] = np.repeat(np.arange(bins.count), np.diff(bins.starts))
    assert found.tolist() == first_fit(lengths.tolist(), capacity)


def test_what_does_not_fit_a_bin_is_refused() -> None:
    for lengths in ([3, 9], [0, 2]):
        with pytest.raises(ValueError, match="from 1 to 8"):
            first_fit_decreasing(np.array(lengths), 8)


def test_examples_of_asked_bins_come_in_that_order() -> None:
    bins = first_fit_decreasing(np.array([5, 2, 2, 1, 3]), 5)
    assert [bins.of(np.array([number]))[0].tolist() for number in range(3)] == [[0], [4, 1], [2, 3]]
    members, counts = bins.of(np.array([2, 0]))
    assert (members.tolist(), counts.tolist()) == ([2, 3, 0], [2, 1])


LENGTHS = [(1 + number % 5, 1 + number * 7 % 19) for number in range(37)]


@pytest.fixture
def split(tmp_path: Path) -> ExampleSplit:
    return prepare(Examples(*LENGTHS), tmp_path, context=CONTEXT)


@pytest.fixture
def packed(split: ExampleSplit) -> ExampleSplit:
    return replace(split, bins=first_fit_decreasing(split.lengths - 1, CONTEXT))


def read_examples(batch: Batch) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (inputs, targets) of every example of a packed batch, checking how it is laid out."""
    found: Counter[Any] = Counter()
    for inputs, targets, segments, positions in zip(
        *(batch[name] for name in ("inputs", "targets", "segments", "positions")), strict=True
    ):
        assert (segments.diff() >= 0).all()
        for number in range(int(segments[-1]) + 1):
            of_it = segments == number
            count = int(of_it.sum())
            if (targets[of_it] == IGNORE_INDEX).all():  # padding
                assert number == segments[-1]
                assert not inputs[of_it].any()
            else:
                assert positions[of_it].tolist() == list(range(count))
                found[tuple(inputs[of_it].tolist()), tuple(targets[of_it].tolist())] += 1
    return found


def test_packed_batches_have_every_example_once_an_epoch(packed: ExampleSplit) -> None:
    batches = ExampleBatches(packed, context=CONTEXT, batch_size=4, seed=2)
    assert batches.n_windows == packed.sequences < 37
    expected: Counter[Any] = Counter()
    for row in range(packed.rows):
        ids, scored = packed.row(row)
        targets = np.where(scored[1:], ids[1:].astype(int), IGNORE_INDEX)
        expected[tuple(ids[:-1].tolist()), tuple(targets.tolist())] += 1
    for epoch in range(2):
        batch = batches.batch(epoch * batches.n_windows, batches.n_windows)
        assert read_examples(batch) == expected
        assert batch["inputs"].shape == (batches.n_windows, CONTEXT)
        assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize("is_packed", [True, False])
def test_what_a_batch_holds_is_known_before_it_is_read(
    is_packed: bool, packed: ExampleSplit, split: ExampleSplit
) -> None:
    rows = packed if is_packed else split
    batches = ExampleBatches(rows, context=CONTEXT, batch_size=4, seed=2)
    n_rows = rows.sequences
    for position in range(0, 3 * n_rows, 4):
        batch = batches.batch(position, 4)
        assert batches.targets(position, 4) == int((batch["targets"] != IGNORE_INDEX).sum())
    assert batches.tokens(2 * n_rows) == 2 * split.n_tokens
    assert [batches.epochs.end(k) for k in (1, 2, 3)] == [-(-k * n_rows // 4) for k in (1, 2, 3)]
    inputs = int((split.lengths - 1).sum())
    for micro in (1, 3, 4):
        sizes = [
            batches.batch(at, min(micro, n_rows - at))["inputs"].numel()
            for at in range(0, n_rows, micro)
        ]
        assert batches.padding(micro) == pytest.approx(1 - inputs / sum(sizes))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_scores_packed_examples_as_it_does_others(
    ranks: int, packed: ExampleSplit, split: ExampleSplit
) -> None:
    torch.manual_seed(0)
    model = TransformerModel(small_shape(context=CONTEXT), vocab_size=257).eval()

    @torch.no_grad()
    def measured(rows: ExampleSplit) -> Any:
        return evaluate(model.loss, rows, name="val", context=CONTEXT, batch_size=3)

    assert measured(packed) == pytest.approx(measured(split), rel=1e-6)
    batches = list(example_evaluation_batches(packed, context=CONTEXT, batch_size=2, ranks=ranks))
    assert sum(map(read_examples, batches), Counter()).total() == split.rows
    assert max(len(batch["inputs"]) for batch in batches) <= 2


# Rows of like length ----------------------------------------------------------------------------


def order(n_rows: int, batch_size: int, seed: int = 5) -> tuple[LengthOrder, np.ndarray]:
    lengths = np.random.default_rng(n_rows).integers(1, 200, n_rows)
    return LengthOrder(lengths, batch_size=batch_size, seed=seed), lengths


@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 4), (3, 7), (40, 8), (203, 8), (1000, 4)])
def test_every_row_is_drawn_once_an_epoch(n_rows: int, batch_size: int) -> None:
    rows, _ = order(n_rows, batch_size)
    epochs = [rows.windows(epoch * n_rows, n_rows).tolist() for epoch in range(6)]
    assert all(sorted(epoch) == list(range(n_rows)) for epoch in epochs)
    assert n_rows < 40 or len(set(map(tuple, epochs))) == 6


def test_ranges_of_rows_read_the_same_however_they_are_divided() -> None:
    whole = order(203, 8)[0].windows(0, 900).tolist()
    rows, _ = order(203, 8)
    assert np.concatenate([rows.windows(at, 2) for at in range(0, 900, 2)]).tolist() == whole
    rows, _ = order(203, 8)
    backwards = [rows.windows(at, 8) for at in range(896, -1, -8)]
    assert np.concatenate(backwards[::-1]).tolist()[:900] == whole
    assert order(203, 8, seed=6)[0].windows(0, 900).tolist() != whole


def test_the_order_by_length_is_pinned_for_all_time() -> None:
    """A resume under another version must see the same order: these numbers must not change."""
    rows = LengthOrder(np.array([3, 9, 4, 1, 8, 2, 7]), batch_size=2, seed=1337)
    assert rows.windows(0, 14).tolist() == PINNED


PINNED = [0, 3, 4, 2, 6, 5, 1, 3, 6, 5, 1, 0, 4, 2]


def test_rows_of_a_batch_have_like_lengths_and_fall() -> None:
    rows, lengths = order(1003, 8)
    batches = [lengths[rows.windows(at, 8)] for at in range(0, 3 * 1003, 8)]
    spread = [int(batch.max() - batch.min()) for batch in batches]
    whole = [batch for batch in batches if (np.diff(batch) <= 0).all()]
    assert len(whole) >= len(batches) - 3  # but for those that two epochs share
    assert np.median(spread) < 20
    assert len({int(batch.max()) // 20 for batch in batches[:20]}) > 5  # not the long ones first


def test_neighbours_differ_from_epoch_to_epoch() -> None:
    rows, _ = order(240, 4)
    epochs = [
        {frozenset(rows.windows(epoch * 240 + at, 4).tolist()) for at in range(0, 240, 4)}
        for epoch in range(2)
    ]
    assert len(epochs[0] & epochs[1]) < 6


# Whether to pack --------------------------------------------------------------------------------


def test_only_a_model_that_keeps_examples_apart_is_given_packed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Examples((2, 3))
    run = replace(run_context(tmp_path), config={"model": {"name": "transformer"}})
    assert packs_examples(data, run, Objective())
    assert packs_examples(
        data, replace(run, resolved={"packed": True, "device": "cpu"}), Objective()
    )
    for started in ({"packed": False}, {"device": "cpu"}):  # the second is from before packing
        assert not packs_examples(data, replace(run, resolved=started), Objective())
    data.layout = replace(data.layout, packing=False)
    assert not packs_examples(data, run, Objective())
    data.layout = replace(data.layout, packing="auto")
    monkeypatch.setattr(Transformer, "supports", frozenset({"kv_cache"}))
    assert not packs_examples(data, run, Objective())


def test_a_run_says_how_examples_are_in_rows(
    tmp_path: Path, split: ExampleSplit, packed: ExampleSplit
) -> None:
    data = Examples((2, 3))
    run = replace(run_context(tmp_path, context=CONTEXT), config={"model": {"name": "mine"}})

    def line(rows: ExampleSplit) -> str | None:
        batches = ExampleBatches(rows, context=CONTEXT, batch_size=4, seed=2)
        prepared = PreparedData(
            data=data, tokenizer=ByteTokenizer(), splits={"train": rows}, batches=batches
        )
        return packing_line(prepared, run, micro=4)

    share = 1 - int((split.lengths - 1).sum()) / (packed.sequences * CONTEXT)
    assert line(packed) == (
        f"train: 37 examples in {packed.sequences} packed rows of 32, {share:.0%} padding"
    )
    assert "in rows of their own (model 'mine' does not keep packed ones apart)" in str(line(split))
    data.layout = replace(data.layout, packing=False)
    assert "in rows of their own (packing = false), those of like" in str(line(split))
