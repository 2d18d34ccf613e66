"""Several ranks as threads of this process, each with a real gloo crew."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from llmforge.checkpoint import CheckpointWriter, Retention, SaveRequest, SelfDescription
from llmforge.checkpoint.gloo_group import GlooCrew
from llmforge.interfaces import Slice

S = TypeVar("S")
T = TypeVar("T")


def crews(world_size: int, *, timeout: float = 20.0) -> list[GlooCrew]:
    """Return a crew for each of ``world_size`` ranks, connected over the loopback."""
    store = dist.HashStore()

    def join(rank: int) -> GlooCrew:
        group = dist.ProcessGroupGloo(store, rank, world_size, datetime.timedelta(seconds=20))
        return GlooCrew(group, timeout=timeout)  # type: ignore[arg-type]

    return on_all(join, range(world_size))


@cache
def lasting_crews(world_size: int) -> list[GlooCrew]:
    """Return crews that tests in which no rank is lost use one after the other."""
    return crews(world_size)


def on_all(work: Callable[[S], T], ranks: Sequence[S]) -> list[T]:
    """Do ``work`` for each of ``ranks`` on a thread of its own and return the results."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [future.result(60) for future in [pool.submit(work, rank) for rank in ranks]]


def outcomes(work: Callable[[S], T], ranks: Sequence[S]) -> list[T | Exception]:
    """Do ``work`` as :func:`on_all`; return what a rank raised in place of its result."""

    def caught(rank: S) -> T | Exception:
        try:
            return work(rank)
        except Exception as error:
            return error

    return on_all(caught, ranks)


class Agreement:
    """The greatest number that all ranks give, as the step loop's team finds it."""

    def __init__(self, world_size: int) -> None:
        self._numbers: list[int] = []
        self._greatest = 0
        self._barrier = threading.Barrier(world_size, self._settle, timeout=20)
        self._lock = threading.Lock()

    def __call__(self, number: int) -> int:
        with self._lock:
            self._numbers.append(number)
        self._barrier.wait()
        return self._greatest

    def _settle(self) -> None:
        self._greatest = max(self._numbers)
        self._numbers = []


class Ranks:
    """The writers of all ranks of a run; ``told`` has (rank, step) of each call of a listener."""

    def __init__(self, directory: Path, members: Sequence[GlooCrew], **options: Any) -> None:
        self.told: list[tuple[int, int]] = []
        agreement = Agreement(len(members))

        def begin(crew: GlooCrew) -> CheckpointWriter:
            return CheckpointWriter(
                directory,
                **{
                    "description": SelfDescription(
                        recipe="[run]\n", recipe_hash="0123", world_size=len(members)
                    ),
                    "retention": Retention(keep_last=3),
                    "on_saved": lambda saved: self.told.append((crew.rank, saved.step)),
                    "crew": crew,
                    "agree": agreement,
                    **options,
                },
            )

        self.writers = on_all(begin, members)

    def submit(self, requests: Sequence[SaveRequest]) -> list[bool | Exception]:
        """Submit the request of each rank and return what its writer answered."""
        pairs = list(zip(self.writers, requests, strict=True))
        return outcomes(lambda pair: pair[0].submit(pair[1]), pairs)

    def flush(self) -> list[Exception | None]:
        """Wait for all ranks and return what their writers raised."""
        return outcomes(lambda writer: writer.flush(30), self.writers)

    def close(self) -> None:
        """End all writers."""
        on_all(lambda writer: writer.close(30), self.writers)


def request(
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor] | None = None,
    *,
    slices: Mapping[str, Slice] | None = None,
    **changes: Any,
) -> SaveRequest:
    """Return what one rank asks to save."""
    return SaveRequest(
        step=step,
        model=model,
        optimizer=optimizer or {},
        slices=slices or {},
        **{"trainer": {"step": step}, "metadata": {}, "required": True, **changes},
    )
