"""The backend ``ddp`` on real ranks over gloo: the numbers of one process, and the same bits again.

Tolerance: in fp32 losses of equal batches agree to 1e-5 relative. Each rank adds its gradients up
before they are added over ranks, which is another order of the same sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_ranks import Setup, clone_state, make_engine, run_ranks, train
from torch.nn.parallel import DistributedDataParallel

STEPS = 6


def _curves(rank: int, directory: Path, dropout: float) -> None:
    engine = make_engine(Setup("ddp", model={"dropout": dropout}), directory)
    curve = train(engine, range(STEPS), micro=1)
    if rank == 0:
        torch.save((curve, clone_state(engine.state()).model), directory / "found.pt")


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.2, marks=pytest.mark.slow)])
def test_two_ranks_compute_what_one_process_does(tmp_path: Path, dropout: float) -> None:
    run_ranks(2, _curves, tmp_path, dropout)
    curve, weights = torch.load(tmp_path / "found.pt")
    single = make_engine(Setup("single", model={"dropout": dropout}), tmp_path)
    expected = train(single, range(STEPS), micro=1)
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(expected), rtol=1e-5, atol=0)
    for name, tensor in single.state().model.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def _resumed(rank: int, directory: Path) -> None:
    whole = make_engine(Setup("ddp"), directory)
    train(whole, range(2), micro=1)
    kept = clone_state(whole.state())
    expected = train(whole, range(2, 5), micro=1)
    later = make_engine(Setup("ddp"), directory)
    later.load_state(kept)
    assert train(later, range(2, 5), micro=1) == expected
    for name, tensor in whole.state().model.items():
        assert torch.equal(later.state().model[name], tensor), f"{name} on rank {rank}"


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_engine_computes_the_same_bits(tmp_path: Path, ranks: int) -> None:
    """With four ranks sums depend on the order of parameters in the exchange."""
    run_ranks(ranks, _resumed, tmp_path)


def _counted(rank: int, directory: Path) -> None:
    seen: list[int] = []
    engine = make_engine(Setup("ddp"), directory)
    parallel: Any = next(part for part in vars(engine).values() if _is_parallel(part))

    def counts(_state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations
        seen.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    parallel.register_comm_hook(None, counts)
    train(engine, range(3), micro=1)
    weights = sum(tensor.numel() for tensor in engine.state().model.values())
    # 8 sequences, 2 ranks, one at a time: 4 micro-batches a step, whose gradients travel once.
    assert sum(seen) == 3 * weights, (rank, seen)


def _is_parallel(part: object) -> bool:
    return isinstance(part, DistributedDataParallel)


def test_gradients_travel_once_a_step_however_many_micro_batches(tmp_path: Path) -> None:
    run_ranks(2, _counted, tmp_path)
