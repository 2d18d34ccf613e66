"""The processes that train a run together, as one of them sees them; free of torch for one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from llmforge.distributed.environment import Place

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

_as_it_is = contextlib.nullcontext


class StopVote(Protocol):
    """Agreement at every step on whether to stop, at next to no cost."""

    def ask(self, code: int) -> int:
        """Say that this process wants to stop, and learn what was agreed.

        All ranks call it equally often. What one says is known to all at the *next* call, so that
        nobody waits, and all learn it at the same one; a process that is alone learns it at once.

        Args:
            code: why to stop; 0 to continue.

        Returns:
            The largest code that any rank gave; 0 to continue.
        """
        ...

    def close(self) -> None:
        """Finish what is under way; called by all ranks."""
        ...


class Team(Protocol):
    """All ranks of a run. Every method is called by all of them in the same order, if not said.

    A rank that does not answer within the timeout of the team, or is gone, raises at the others.

    Attributes:
        place: which rank this process is, of how many.
        background: a gloo group of all ranks that the core leaves to another thread, once the
            team is assembled; None when there is only one rank.
    """

    place: Place
    background: ProcessGroup | None

    def assemble(self, *, timeout: float, device: str) -> None:
        """Connect all ranks; the other methods that exchange something need it.

        Args:
            timeout: seconds after which a rank that does not answer counts as dead.
            device: ``cpu`` when nothing is ever exchanged from GPU to GPU.
        """
        ...

    def broadcast(self, value: T, *, patient: bool = False) -> T:
        """Return the leader's ``value`` on every rank.

        With ``patient`` the others wait for as long as the leader is alive.
        """
        ...

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of each rank, by rank, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, added in the order of ranks, in host memory."""
        ...

    def vote(self) -> StopVote:
        """Return a new vote on stopping."""
        ...

    def working(
        self, *, undisturbed: Callable[[], contextlib.AbstractContextManager[None]] = _as_it_is
    ) -> contextlib.AbstractContextManager[None]:
        """Return a context that makes the failure of one rank the failure of all.

        An error leaves it as itself, with its rank, on the rank whose it is, and as
        :class:`~llmforge.errors.PeerFailed` on the others. Not called in any order.

        Args:
            undisturbed: makes the context in which a failure is sent to the others, and no signal
                interrupts it.
        """
        ...

    def cause(self, error: BaseException) -> BaseException:
        """Return the failure of another rank that ``error`` follows from, else ``error`` itself.

        Not called in any order.
        """
        ...

    def check_peers(self) -> None:
        """Look whether another rank has said that it failed. Not called in any order.

        Raises:
            PeerFailed: one has.
        """
        ...

    def leave(self) -> None:
        """Cut the connections; the team is of no use any more. Not called in any order."""
        ...


class Alone:
    """The :class:`Team` of a process that trains by itself: everything is agreed at once."""

    def __init__(self) -> None:
        self.place = Place()
        self.background: ProcessGroup | None = None

    def assemble(self, *, timeout: float, device: str) -> None:
        """Do nothing: nobody is missing."""

    def broadcast(self, value: T, *, patient: bool = False) -> T:
        """Return ``value``."""
        del patient
        return value

    def gather(self, value: T) -> list[T]:
        """Return ``value`` alone."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""

    def total(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` in host memory."""
        return tensor.cpu()

    def vote(self) -> StopVote:
        """Return a vote of one."""
        return _OwnVote()

    @contextlib.contextmanager
    def working(
        self, *, undisturbed: Callable[[], contextlib.AbstractContextManager[None]] = _as_it_is
    ) -> Iterator[None]:
        """Let errors pass."""
        del undisturbed
        yield

    def cause(self, error: BaseException) -> BaseException:
        """Return ``error``."""
        return error

    def check_peers(self) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""


class _OwnVote:
    def ask(self, code: int) -> int:
        return code

    def close(self) -> None:
        return None


def join(place: Place) -> Team:
    """Return the team of ``place``; it is not assembled yet, but errors are shared from here on.

    Raises:
        PeerFailed: the leader cannot be reached.
    """
    if place.world_size == 1:
        return Alone()
    from llmforge.distributed.process_group import ProcessGroupTeam

    return ProcessGroupTeam(place)


def leader_first(team: Team, act: Callable[[], T]) -> T:
    """Return ``act()``, which the leader does before all others, however long it takes.

    For work whose result is on disk, where the others find it.
    """
    if not team.place.is_leader:
        team.broadcast(None, patient=True)
        return act()
    result = act()
    team.broadcast(None, patient=True)
    return result
