"""Loss sums and evaluations over several ranks, played one after the other in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmforge.data.shards import TokenSplit
from llmforge.distributed import Alone, Place
from llmforge.interfaces import IGNORE_INDEX, Batch, StepResult, TokenShard
from llmforge.run.trainer_state import TrainerState
from llmforge.run.training.evaluation import evaluate
from llmforge.run.training.loss_average import LossTotals


class Together:
    """Lets one thread for each rank exchange values."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def run(self, work: Callable[[Rank], Any]) -> list[Any]:
        """Return what ``work`` returns for each rank."""
        results: list[Any] = [None] * len(self.values)

        def one(rank: int) -> None:
            results[rank] = work(Rank(self, rank))

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(self.values))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Rank(Alone):
    """A team of which every rank is a thread of this process: no network, and no faults."""

    def __init__(self, together: Together, rank: int) -> None:
        super().__init__()
        self.place = Place(rank=rank, world_size=len(together.values))
        self._together = together

    def gather(self, value: Any) -> list[Any]:
        self._together.values[self.place.rank] = value
        self._together.barrier.wait()
        found = list(self._together.values)
        self._together.barrier.wait()
        return found

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        return sum(self.gather(tensor)[1:], start=self.gather(tensor)[0])


def split(n_tokens: int) -> TokenSplit:
    ids = np.arange(n_tokens, dtype="<u2") % 251
    shards = (TokenShard(name="none", path=None, ids=ids),)  # type: ignore[arg-type]
    return TokenSplit(shards=shards, n_bytes=n_tokens, documents=1)


def costs_its_number(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    scored = batch["targets"][batch["targets"] != IGNORE_INDEX]
    return scored.sum() / 7, torch.tensor(scored.numel())


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("n_tokens", [9, 80, 161])
def test_ranks_evaluate_the_whole_split_together_and_agree(ranks: int, n_tokens: int) -> None:
    calls = [0] * ranks

    def work(rank: Rank) -> Any:
        def counted(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            calls[rank.place.rank] += 1
            return costs_its_number(batch)

        return evaluate(counted, split(n_tokens), name="val", context=8, batch_size=2, team=rank)

    alone = evaluate(costs_its_number, split(n_tokens), name="val", context=8, batch_size=2)
    found = Together(ranks).run(work)
    assert alone is not None
    assert all(values == found[0] for values in found)
    assert found[0] == pytest.approx(alone, rel=1e-12)
    assert len(set(calls)) == 1  # or one would wait for the others for ever


def losses(rank: int, steps: range) -> list[float]:
    return [0.1 * (step + 1) + 0.037 * rank for step in steps]


def loss_totals(state: TrainerState, rank: Alone, *, window: int = 8) -> LossTotals:
    return LossTotals(state, device=torch.device("cpu"), team=rank, window=window)


def add(totals: LossTotals, values: list[float]) -> None:
    for value in values:
        totals.add(StepResult(torch.tensor(value), torch.tensor(1.0), 0.1), targets=10)


def test_a_row_averages_the_last_steps_whatever_was_read_in_between() -> None:
    totals = loss_totals(TrainerState(), Alone(), window=4)
    for step in range(1, 11):
        add(totals, [10.0 * step])
        if step in (4, 7, 8, 10):  # the grid, an epoch's end, the grid, the last step
            recent, epoch = totals.means()
            last = range(max(1, step - 3), step + 1)
            assert recent == pytest.approx(sum(last) / len(last))
            first = 1 if step <= 7 else 8
            assert epoch == pytest.approx((first + step) / 2)
        if step == 7:
            totals.begin_epoch()


def test_a_resumed_run_sums_losses_to_the_same_bits() -> None:
    def whole(rank: Rank) -> tuple[float, float]:
        totals = loss_totals(TrainerState(), rank)
        add(totals, losses(rank.place.rank, range(7)))
        return totals.means()

    def until(rank: Rank) -> TrainerState:
        state = TrainerState()
        totals = loss_totals(state, rank)
        add(totals, losses(rank.place.rank, range(3)))
        totals.store()
        return state

    uninterrupted = Together(2).run(whole)
    saved = json.dumps(Together(2).run(until)[0].to_json({}))

    def resumed(rank: Rank) -> tuple[float, float]:
        totals = loss_totals(TrainerState.from_json(json.loads(saved)), rank)
        add(totals, losses(rank.place.rank, range(3, 7)))
        return totals.means()

    assert Together(2).run(resumed) == uninterrupted


@pytest.mark.parametrize("ranks", [1, 3])
def test_losses_outlive_a_change_of_the_number_of_ranks(ranks: int) -> None:
    saved = json.dumps(
        TrainerState(recent_losses=[2.0, 4.0], epoch={"loss_sum": 120.0, "targets": 40}).to_json({})
    )

    def resumed(rank: Rank) -> tuple[float, float]:
        totals = loss_totals(TrainerState.from_json(json.loads(saved)), rank)
        add(totals, [90.0 / ranks])
        return totals.means()

    assert Together(ranks).run(resumed) == [(5.0, 210.0 / 50)] * ranks


def test_a_checkpoint_without_losses_by_step_has_its_epochs_mean() -> None:
    body = TrainerState(epoch={"loss_sum": 30.0, "targets": 10}).to_json({})
    del body["recent_losses"]
    totals = loss_totals(TrainerState.from_json(body), Alone())
    assert totals.means() == (3.0, 3.0)
