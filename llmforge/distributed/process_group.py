"""A team over torch.distributed: gloo for what the core exchanges, NCCL for the engine on GPUs.

The engine has the default process group. The core exchanges its few numbers over groups of its
own, so that neither waits for the other.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from llmforge.distributed.environment import Place
from llmforge.distributed.launched import leave_word
from llmforge.errors import EXIT_FAILURE, ForgeError, PeerFailed, RankLost

T = TypeVar("T")

log = logging.getLogger("llmforge.run")

_MEETING_SECONDS = 600.0
_PATIENT = datetime.timedelta(days=30)
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 1.0
_FAILURE, _FIRST = "failure", "first"
_FOLLOWERS_HESITATE_SECONDS = 1.0
_NEWS_SECONDS = 3.0
_CONNECTION_WORDS = (
    "gloo",
    "connection closed",
    "connection reset",
    "nccl",
    "timed out",
    "tcpstore",
)


class ProcessGroupTeam:
    """Implements :class:`llmforge.distributed.Team`.

    Args:
        place: of this process; its ``master`` is where all meet.

    Raises:
        PeerFailed: the leader cannot be reached.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.background: dist.ProcessGroup | None = None
        self._timeout = _MEETING_SECONDS
        self._groups: _Groups | None = None
        self._looked = 0.0
        place.export(os.environ)
        timeout = datetime.timedelta(seconds=_MEETING_SECONDS)
        meeting = rendezvous(
            "env://", rank=place.rank, world_size=place.world_size, timeout=timeout
        )
        try:
            store, _, _ = next(iter(meeting))
        except (RuntimeError, OSError) as error:
            raise PeerFailed(
                f"rank {place.rank} cannot reach the leader at {place.master}: {error}",
                remedy="check MASTER_ADDR and MASTER_PORT, and that rank 0 was started",
                shown=False,
            ) from error
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"llmforge/{restart}", store)
        self._meeting = meeting  # keeps the store of a leader that serves it alive

    def assemble(self, *, timeout: float, device: str) -> None:
        """Connect all ranks."""
        self._timeout = timeout
        span = datetime.timedelta(seconds=timeout)
        gpus = device != "cpu" and torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(self.place.local_rank % torch.cuda.device_count())
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "cpu:gloo",
            store=PrefixStore("groups", self._store),
            rank=self.place.rank,
            world_size=self.place.world_size,
            timeout=span,
        )
        self._groups = _Groups(_new_group(span), _new_group(_PATIENT))
        self.background = _new_group(span)

    def broadcast(self, value: T, *, patient: bool = False) -> T:
        """Return the leader's ``value`` on every rank."""
        group = self._connected.patient if patient else self._connected.prompt
        payload = _packed(value) if self.place.is_leader else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([payload.numel()])
        _wait(dist.broadcast(size, src=0, group=group, async_op=True), polling=patient)
        if not self.place.is_leader:
            payload = torch.empty(int(size), dtype=torch.uint8)
        _wait(dist.broadcast(payload, src=0, group=group, async_op=True), polling=patient)
        return value if self.place.is_leader else cast("T", _unpacked(payload))

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of each rank, by rank, on every rank."""
        found: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(found, value, group=self._connected.prompt)
        return found

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier(group=self._connected.prompt)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks in host memory; the same bits on every rank."""
        own = tensor.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.place.world_size)]
        dist.all_gather(parts, own, group=self._connected.prompt)
        result = parts[0]
        for part in parts[1:]:
            result = result + part
        return result

    def vote(self) -> _Vote:
        """Return a new vote on stopping."""
        return _Vote(self._connected.prompt)

    @contextlib.contextmanager
    def working(
        self,
        *,
        undisturbed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[None]:
        """Make the failure of one rank the failure of all."""
        try:
            yield
        except BaseException as caught:
            if isinstance(caught, SystemExit) and not caught.code:
                raise
            with undisturbed():
                error = self.cause(caught)
                if not isinstance(error, PeerFailed):
                    error = self._tell(error)
            if error is caught:
                raise
            raise error from caught

    def cause(self, error: BaseException) -> BaseException:
        """Return the failure of another rank that ``error`` follows from, else ``error``."""
        if isinstance(error, Exception) and _is_lost_connection(error):
            return self._peer_failed(error)
        return error

    def check_peers(self) -> None:
        """Look, once a second at most, whether another rank has said that it failed."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        with contextlib.suppress(RuntimeError):  # without its store nothing can be known
            if self._store.check([_FAILURE]):
                raise self._peer_failed(PeerFailed("it reported its failure in time"))

    def leave(self) -> None:
        """Cut the connections."""
        if self._groups is not None:
            self._groups = self.background = None
            dist.destroy_process_group()

    @property
    def _connected(self) -> _Groups:
        if self._groups is None:
            raise RuntimeError("the team is not assembled")
        return self._groups

    def _tell(self, error: BaseException) -> BaseException:
        """Let the others know whose failure this is, and label it with the rank.

        Returns:
            The failure of another rank when that was reported first: one is enough.
        """
        if not self.place.is_leader:
            # An error that all ranks meet is the leader's to tell, who has no rank to name.
            time.sleep(_FOLLOWERS_HESITATE_SECONDS)
        code = error.exit_code if isinstance(error, ForgeError) else EXIT_FAILURE
        text = error.reason if isinstance(error, ForgeError) else repr(error)
        try:
            if self._store.add(_FIRST, 1) != 1:
                return self._peer_failed(error)
            self._store.set(_FAILURE, json.dumps({"code": code, "text": text}))
        except RuntimeError as lost:
            log.debug("the failure is not told to the other ranks: %s", lost)
        if not self.place.is_leader:
            if isinstance(error, ForgeError):
                error.message = f"rank {self.place.rank}: {error.message}"
            else:
                error.add_note(f"on rank {self.place.rank}")
        return error

    def _peer_failed(self, error: BaseException) -> PeerFailed:
        """Return the failure of another rank that ``error`` follows from."""
        try:
            known = self._told_failure()
            if known is not None:
                return PeerFailed(str(known["text"]), exit_code=int(known["code"]))
            shown = self._store.add(_FIRST, 1) != 1
        except RuntimeError:
            shown = not self.place.is_leader
        said = str(error).partition("\n")[0].rpartition("] ")[2]  # without gloo's source file
        lost = PeerFailed(
            error.message
            if isinstance(error, RankLost)
            else f"rank {self.place.rank} lost another: it was killed, or did not answer within "
            f"{self._timeout:g} s ({said})",
            remedy="the last checkpoint is untouched; the same command resumes from it",
        )
        lost.shown = shown or leave_word(str(lost))
        return lost

    def _told_failure(self) -> dict[str, Any] | None:
        """Return what the first rank that failed has told; None when none did."""
        end = time.monotonic() + _NEWS_SECONDS
        while not self._store.check([_FAILURE]):
            if time.monotonic() > end:
                return None
            time.sleep(_POLL_SECONDS)
        found: dict[str, Any] = json.loads(self._store.get(_FAILURE))
        return found


class _Groups:
    """Two groups of all ranks: one for what is prompt, one for waiting as long as it takes."""

    def __init__(self, prompt: dist.ProcessGroup, patient: dist.ProcessGroup) -> None:
        self.prompt = prompt
        self.patient = patient


def _new_group(timeout: datetime.timedelta) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


class _Vote:
    """One number over all ranks a step, its sum of one step read at the next."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._pending: tuple[Any, Tensor] | None = None

    def ask(self, code: int) -> int:
        agreed = self._collect()
        ballot = torch.tensor([code])
        work = dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, ballot)
        return agreed

    def close(self) -> None:
        self._collect()

    def _collect(self) -> int:
        if self._pending is None:
            return 0
        work, ballot = self._pending
        self._pending = None
        work.wait()
        return int(ballot)


def _wait(work: Any, *, polling: bool) -> None:
    """Wait for a collective; with ``polling`` signals are handled meanwhile."""
    while polling and not work.is_completed():
        time.sleep(_POLL_SECONDS)
    work.wait()


def _packed(value: object) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _unpacked(payload: Tensor) -> object:
    return pickle.loads(payload.numpy().tobytes())


def _is_lost_connection(error: Exception) -> bool:
    """Return whether ``error`` says that another rank is gone or silent."""
    if isinstance(error, dist.DistError | RankLost):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _CONNECTION_WORDS)
