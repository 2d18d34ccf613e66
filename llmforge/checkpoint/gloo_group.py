"""A crew over a group of torch.distributed's gloo backend."""

from __future__ import annotations

import datetime
import json
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from llmforge.checkpoint.rank_group import LEADER, CrewLostError

_LONGEST_BEAT = 5.0
_TAG = 0


class GlooCrew:
    """The :class:`~llmforge.checkpoint.rank_group.Crew` of all ranks.

    Messages go from rank to rank, so that the one that fails is known by its number: a killed
    process closes its connections, which is noticed at once; one that hangs is given up after
    ``timeout`` seconds.

    Args:
        group: a gloo group of all ranks that nothing else uses; it may be used from any thread.
        timeout: seconds without a sign of life after which a rank counts as lost.
    """

    def __init__(self, group: dist.ProcessGroup, *, timeout: float) -> None:
        self.rank: int = group.rank()
        self.world_size: int = group.size()
        self.beat = min(_LONGEST_BEAT, timeout / 4)
        self._group = group
        # A follower waits longer than the leader: who is lost is for the leader to say.
        self._timeout = datetime.timedelta(seconds=timeout * (1 if self.rank == LEADER else 2))
        self._lost: CrewLostError | None = None
        self._sent: list[Any] = []

    def gather(self, item: Any) -> list[Any] | None:
        """Give the leader ``item``; it gets those of all in order of ranks, the others None."""
        self._raise_lost()
        if self.rank != LEADER:
            # Not waited for: an answer that somebody is lost may come instead of a receiver.
            try:
                self._sent = self._send({"item": item}, LEADER)
            except RuntimeError as error:
                self._leader_gone(error)
            return None
        items, errors = [item], {}
        for rank in self._followers():
            try:
                items.append(self._receive(rank)["item"])
            except RuntimeError as error:
                errors[rank] = error
        self._give_up(errors)
        return items

    def tell(self, item: Any) -> Any:
        """Return on every rank the ``item`` of the leader."""
        self._raise_lost()
        if self.rank != LEADER:
            return self._listen()
        errors = {}
        for rank in self._followers():
            try:
                for work in self._send({"item": item}, rank):
                    work.wait(self._timeout)
            except RuntimeError as error:
                errors[rank] = error
        self._give_up(errors)
        return item

    def _listen(self) -> Any:
        try:
            message = self._receive(LEADER)
        except RuntimeError as error:
            self._leader_gone(error)
        if "lost" in message:
            self._lost = CrewLostError(message["lost"])
            raise self._lost
        return message["item"]

    def _leader_gone(self, error: RuntimeError) -> NoReturn:
        self._lost = CrewLostError(
            f"rank {LEADER}, which leads the writing of checkpoints, is gone or has given up; "
            f"its own message says why ({_brief(error)})"
        )
        raise self._lost from error

    def _give_up(self, errors: dict[int, RuntimeError]) -> None:
        """Tell the other ranks, and raise, when some could not be reached."""
        if not errors:
            return
        # The first alone is named: giving it up for its silence closes all connections.
        first, error = next(iter(errors.items()))
        text = f"rank {first} is lost: {_brief(error)}"
        self._lost = CrewLostError(
            text, remedy="the checkpoint under way is discarded, the last complete one stays"
        )
        for rank in self._followers():
            if rank not in errors:
                try:
                    self._sent += self._send({"lost": text}, rank)
                except RuntimeError:
                    continue  # it sees the closed connection
        raise self._lost from error

    def _raise_lost(self) -> None:
        if self._lost is not None:
            raise CrewLostError(self._lost.message, remedy=self._lost.remedy)

    def _followers(self) -> range:
        return range(LEADER + 1, self.world_size)

    def _send(self, message: dict[str, Any], rank: int) -> list[Any]:
        data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        size = torch.tensor([data.numel()])
        return [self._group.send([tensor], rank, _TAG) for tensor in (size, data)]

    def _receive(self, rank: int) -> dict[str, Any]:
        size = self._irecv(torch.empty(1, dtype=torch.int64), rank)
        data = self._irecv(torch.empty(int(size), dtype=torch.uint8), rank)
        message: dict[str, Any] = json.loads(bytes(data.numpy()))
        return message

    def _irecv(self, tensor: Tensor, rank: int) -> Tensor:
        self._group.recv([tensor], rank, _TAG).wait(self._timeout)
        return tensor


def _brief(error: RuntimeError) -> str:
    """Return what an error of gloo says, without the place in its sources."""
    text = str(error).splitlines()[0]
    return text.rpartition("] ")[2].split(". ")[0] if text.startswith("[") else text
