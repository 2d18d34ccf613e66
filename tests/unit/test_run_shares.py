"""Loss sums and evaluations over several ranks, played one after the other in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmforge.data.split import TokenSplit
from llmforge.distributed import Alone, Place
from llmforge.interfaces import IGNORE_INDEX, Batch, StepResult, TokenShard
from llmforge.run.evaluation import evaluate
from llmforge.run.state import TrainerState
from llmforge.run.totals import LossTotals


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


def add(totals: LossTotals, values: list[float]) -> None:
    for value in values:
        result = StepResult(torch.tensor(value), torch.tensor(1.0), 0.1)
        totals.add(result, targets=10)


def test_a_resumed_run_sums_losses_to_the_same_bits() -> None:
    device = torch.device("cpu")

    def whole(rank: Rank) -> tuple[float, float]:
        totals = LossTotals(TrainerState(), device=device, team=rank)
        add(totals, losses(rank.place.rank, range(7)))
        return totals.means()

    def until(rank: Rank) -> TrainerState:
        state = TrainerState()
        totals = LossTotals(state, device=device, team=rank)
        add(totals, losses(rank.place.rank, range(3)))
        totals.store()
        return state

    uninterrupted = Together(2).run(whole)
    saved = json.dumps(Together(2).run(until)[0].to_json({}))

    def resumed(rank: Rank) -> tuple[float, float]:
        totals = LossTotals(TrainerState.from_json(json.loads(saved)), device=device, team=rank)
        add(totals, losses(rank.place.rank, range(3, 7)))
        return totals.means()

    assert Together(2).run(resumed) == uninterrupted


def test_the_sums_of_other_ranks_go_to_the_leader_when_their_number_changes() -> None:
    state = TrainerState()
    state.window = {"loss_sum": 12.0, "targets": 4}
    state.epoch = {"loss_sum": 30.0, "targets": 10}
    state.loss_shares = [[5.0, 10.0], [7.0, 20.0]]
    device = torch.device("cpu")
    for ranks in (1, 3):
        found = Together(ranks).run(
            lambda rank: LossTotals(state, device=device, team=rank).means()
        )
        assert found == [(3.0, 3.0)] * ranks
