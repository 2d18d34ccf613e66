"""Sample order and the windows cut from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmforge.data.batches import (
    TrainBatches,
    evaluation_batches,
    train_batches,
)
from llmforge.data.order import SampleOrder
from llmforge.data.shards import TokenSplit
from llmforge.errors import DataError
from llmforge.interfaces import IGNORE_INDEX, TokenShard


def split_of(n_tokens: int) -> TokenSplit:
    shard = TokenShard(
        name="train.bin", path=Path("train.bin"), ids=np.arange(n_tokens, dtype=np.uint16)
    )
    return TokenSplit(shards=(shard,), n_bytes=n_tokens, documents=1)


def test_every_epoch_draws_every_window_once_and_in_another_order():
    order = SampleOrder(100, seed=7)
    epochs = [order.windows(epoch * 100, 100).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(100))


PINNED = [2, 4, 5, 6, 7, 3, 0, 1, 3, 7, 0, 1, 6, 5, 2, 4]


def test_the_order_is_pinned_for_all_time():
    """A resume under another version must see the same order: these numbers must not change."""
    assert SampleOrder(8, seed=1337).windows(0, 16).tolist() == PINNED


def test_a_range_reads_the_same_however_it_is_divided():
    whole = SampleOrder(10, seed=1).windows(0, 35).tolist()
    order = SampleOrder(10, seed=1)
    parts = [order.windows(start, 7) for start in range(0, 35, 7)]
    assert np.concatenate(parts).tolist() == whole
    assert [order.locate(position)[1] for position in range(35)] == whole


def test_a_position_names_its_epoch():
    order = SampleOrder(10, seed=1)
    assert [order.locate(position)[0] for position in (0, 9, 10, 29)] == [0, 0, 1, 2]


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_any_integer_is_a_seed(seed):
    assert sorted(SampleOrder(5, seed=seed).windows(0, 5)) == list(range(5))


def test_seeds_give_different_orders():
    first, second = SampleOrder(50, seed=1), SampleOrder(50, seed=2)
    assert first.windows(0, 50).tolist() != second.windows(0, 50).tolist()


def test_targets_are_the_inputs_shifted_by_one():
    batches = train_batches(split_of(101), context=10, batch_size=4, seed=3)
    batch = batches.batch(0, 4)
    assert batch["inputs"].shape == batch["targets"].shape == (4, 10)
    assert str(batch["inputs"].dtype) == str(batch["targets"].dtype) == "torch.int64"
    assert (batch["targets"] == batch["inputs"] + 1).all()
    assert batch["inputs"].is_contiguous() and batch["targets"].is_contiguous()


def test_an_epoch_of_batches_trains_on_every_token_once():
    batches = train_batches(split_of(101), context=10, batch_size=4, seed=3)
    assert batches.n_windows == 10
    targets = batches.batch(0, 10)["targets"].flatten().tolist()
    assert sorted(targets) == list(range(1, 101))


def test_micro_batches_are_slices_of_the_global_batch():
    batches = train_batches(split_of(101), context=10, batch_size=8, seed=3)
    whole = batches.batch(6, 8)["inputs"]
    assert (whole[2:5] == batches.batch(8, 3)["inputs"]).all()


def test_batches_know_where_epochs_end():
    epochs = train_batches(split_of(101), context=10, batch_size=4, seed=3).epochs
    assert [epochs.end(count) for count in (1, 2, 3)] == [3, 5, 8]


def test_epoch_is_the_fraction_of_the_data_seen():
    assert train_batches(split_of(101), context=10, batch_size=4, seed=3).epoch(25) == 2.5


def test_an_order_made_for_another_size_is_refused():
    with pytest.raises(ValueError, match="9 windows for 10"):
        TrainBatches(split_of(101), context=10, batch_size=1, order=SampleOrder(9, seed=1))


def test_too_few_tokens_for_one_window_say_so():
    with pytest.raises(DataError, match=r"train split has 10 tokens.*context 10.*needs 11"):
        train_batches(split_of(10), context=10, batch_size=1, seed=1)
    assert train_batches(split_of(11), context=10, batch_size=1, seed=1).n_windows == 1


@pytest.mark.parametrize("n_tokens", [2, 10, 11, 40, 41, 42, 95])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_evaluation_scores_every_token_but_the_first_exactly_once(n_tokens, batch_size):
    batches = list(evaluation_batches(split_of(n_tokens), context=10, batch_size=batch_size))
    targets = [value for batch in batches for value in batch["targets"].flatten().tolist()]
    assert [value for value in targets if value != IGNORE_INDEX] == list(range(1, n_tokens))
    assert len({batch["inputs"].shape for batch in batches}) == 1
    windows = -(-(n_tokens - 1) // 10)
    assert len(batches) == -(-windows // min(batch_size, windows))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_is_divided_evenly_so_that_little_is_computed_for_nothing(ranks):
    batches = list(evaluation_batches(split_of(1301), context=10, batch_size=64, ranks=ranks))
    rows = {len(batch["inputs"]) for batch in batches}
    assert (len(batches), rows) == {1: (3, {44}), 2: (4, {33}), 3: (3, {44})}[ranks]


def test_evaluation_inputs_are_the_tokens_before_the_targets():
    (batch,) = evaluation_batches(split_of(15), context=10, batch_size=8)
    scored = batch["targets"] != IGNORE_INDEX
    assert (batch["inputs"][scored] + 1 == batch["targets"][scored]).all()
    assert batch["inputs"].shape == (2, 10)


def test_evaluation_of_one_token_is_a_data_error():
    with pytest.raises(DataError, match="test split has 1 token"):
        evaluation_batches(split_of(1), context=10, batch_size=8, name="test")


def shards_of(*lengths: int) -> TokenSplit:
    """Shards of the ids 0, 1, 2 … counted on from shard to shard."""
    ends = np.cumsum(lengths)
    parts = np.split(np.arange(ends[-1], dtype=np.uint16), ends[:-1])
    return TokenSplit(
        shards=tuple(
            TokenShard(name=f"{index}.npy", path=Path("x"), ids=part)
            for index, part in enumerate(parts)
        ),
        n_bytes=None,
        documents=0,
    )


def test_one_shard_is_drawn_as_a_number_of_windows_always_was():
    assert SampleOrder([8], seed=1337).windows(0, 16).tolist() == PINNED


PINNED_SHARDS = [0, 1, 2, 4, 5, 3, 3, 5, 2, 4, 0, 1]


def test_the_order_of_shards_is_pinned_for_all_time():
    """As above: these numbers must not change."""
    assert SampleOrder([2, 4], seed=1337).windows(0, 12).tolist() == PINNED_SHARDS


def test_an_epoch_draws_shard_after_shard_each_in_an_order_of_its_own():
    order = SampleOrder([5, 7, 3], seed=3)
    owner = np.repeat([0, 1, 2], [5, 7, 3])
    epochs = [order.windows(epoch * 15, 15) for epoch in range(8)]
    sequences = []
    for epoch in epochs:
        assert sorted(epoch) == list(range(15))
        owners = owner[epoch]
        assert np.count_nonzero(np.diff(owners)) == 2  # it changes twice: each is drawn whole
        sequences.append(tuple(dict.fromkeys(owners.tolist())))
    assert len(set(sequences)) > 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_progress_counts_the_shards_that_were_drawn_whole():
    order = SampleOrder([5, 7, 3], seed=3)
    owner = np.repeat([0, 1, 2], [5, 7, 3])
    drawn = owner[order.windows(0, 15)].tolist()
    for position in range(15):
        progress = order.progress(position)
        finished = [shard for shard in range(3) if shard not in drawn[position:]]
        assert (progress.epoch, progress.finished) == (0, len(finished))
        assert progress.current == drawn[position]
    assert order.progress(15).epoch == 1
    assert order.progress(15).finished == 0


def test_no_window_goes_across_two_shards():
    batches = train_batches(shards_of(31, 5, 46), context=10, batch_size=4, seed=3)
    assert batches.n_windows == 3 + 0 + 4  # the second shard is too short for one
    block = batches.batch(0, 7)
    assert (block["targets"] == block["inputs"] + 1).all()
    starts = sorted(block["inputs"][:, 0].tolist())
    assert starts == [0, 10, 20, 36, 46, 56, 66]


def test_files_say_which_are_used_up():
    batches = train_batches(shards_of(31, 46), context=10, batch_size=4, seed=3)
    first = batches.files(0)
    assert (first["files"], first["files_processed"]) == (2, 0)
    last = batches.files(6)
    assert last["files_processed"] == 1
    assert {first["file"], last["file"]} == {"0.npy", "1.npy"}
    assert batches.files(7)["files_processed"] == 0  # the next epoch


def test_evaluation_reads_shards_as_one_text():
    batches = list(evaluation_batches(shards_of(13, 1, 20), context=10, batch_size=2))
    targets = [value for batch in batches for value in batch["targets"].flatten().tolist()]
    assert [value for value in targets if value != IGNORE_INDEX] == list(range(1, 34))
