"""Calls to a place that may hang, fail or lie: each with a deadline, a few tries and a fresh start.

The core never holds on to one open file system: one that stalled or keeps failing is thrown away
and opened again.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from llmforge import plugins
from llmforge.component import Component
from llmforge.errors import ForgeError, StorageError, StorageStalled, plain_reason
from llmforge.interfaces import Progress, Storage, public_url
from llmforge.options import problems_from
from llmforge.remote.deadline import Pulse, call

T = TypeVar("T")
Work = Callable[[Storage, Progress], T]

_SECRET_PARTS = re.compile(r"""(?<=://)[^/\s@'"]*@|(?<=[^\s'"])\?[^\s'"]*=[^\s'"]*""")
"""User and password, or the query, of a URL within a text."""
_LASTING = (PermissionError, NotADirectoryError)
"""Errors that another try would meet again."""
_TRIES = 6
_FIRST_PAUSE_SECONDS = 0.1
_NAP_SECONDS = 0.5


class Limiter:
    """Lets threads together move ``bytes_per_second``: whoever moved more waits for its share."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._paid_until = 0.0

    def take(self, amount: int, *, waiting: Callable[[], None]) -> None:
        """Wait until ``amount`` bytes that were moved are within the limit.

        Args:
            amount: bytes moved.
            waiting: called every now and then meanwhile; it may raise.
        """
        with self._lock:
            self._paid_until = max(time.monotonic(), self._paid_until) + amount / self._rate
            until = self._paid_until
        while (left := until - time.monotonic()) > 0:
            waiting()
            time.sleep(min(left, _NAP_SECONDS))


class Cancelled(Exception):
    """Raised by whoever is notified of an upload's progress, to end the upload."""


class Connections:
    """The open places behind one URL, as many as there are calls at once.

    Args:
        url: the root.
        options: the storage component's option table.
        stall_seconds: how long a call may move nothing.
        limiter: the limit that uploads share, None for no limit.

    Attributes:
        url: the root without credentials.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        stall_seconds: float = 60.0,
        limiter: Limiter | None = None,
    ) -> None:
        self.url = public_url(url)
        self._secret_url = url
        self._options = options
        self._stall_seconds = stall_seconds
        self._limiter = limiter
        self._idle: list[Storage] = []
        self._lock = threading.Lock()

    def call(
        self,
        what: str,
        work: Work[T],
        *,
        expected: tuple[type[Exception], ...] = (),
        moved: Progress | None = None,
        limited: bool = False,
    ) -> T:
        """Return what ``work`` returns for an open place, trying a few times.

        Args:
            what: the call as messages name it, for example ``reading a/b.json``.
            work: given the place, and what to tell the bytes that move.
            expected: errors that are answers, passed on at once.
            moved: told the bytes that move.
            limited: whether the bandwidth limit holds.

        Raises:
            StorageError: every try failed.
            Cancelled: ``moved`` raised it.
        """
        for number in range(1, _TRIES + 1):
            attempt = _Attempt(self, work, limited=limited, moved=moved, again=number < 3)
            try:
                return attempt.run(what, expected)
            except Exception as error:  # a storage may raise anything
                if isinstance(error, (*expected, Cancelled)):
                    raise
                if isinstance(error, ForgeError) and not isinstance(error, StorageStalled):
                    raise  # it says already what is wrong, and another try would say the same
                if number == _TRIES or isinstance(error, _LASTING):
                    raise self._failure(what, error, attempt.place) from error
            time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    def _failure(self, what: str, error: Exception, place: Storage | None) -> StorageError:
        reason = error.message if isinstance(error, ForgeError) else plain_reason(error)
        reason = _SECRET_PARTS.sub("", reason.replace(self._secret_url, self.url))
        kind = StorageStalled if isinstance(error, StorageStalled) else StorageError
        remedy = place.remedy(error) if place is not None else ""
        return kind(f"{what} failed in {self.url}: {reason}", remedy=remedy)


def open_storage(url: str, options: Mapping[str, Any] | None = None) -> Storage:
    """Open the place behind ``url`` with the storage component of its scheme.

    Args:
        url: any fsspec URL.
        options: the component's option table.

    Raises:
        StorageError: it is no URL, the component's package is missing, or it takes no such option.
        PluginError: the component cannot be loaded.
    """
    component = _component(url, options or {})
    for problem in component.missing_packages():
        raise StorageError(f"{public_url(url)}: {problem.message}", remedy=problem.remedy)
    manager = plugins.build_manager([component])
    opened: Storage = plugins.call_factory(manager, "forge_open_storage", url=url)
    return opened


class _Attempt:
    """One try of one call; ``again`` says whether a place that fails it may be used again."""

    def __init__(
        self,
        owner: Connections,
        work: Work[Any],
        *,
        limited: bool,
        moved: Progress | None,
        again: bool,
    ) -> None:
        self._again = again
        self._owner = owner
        self._work = work
        self._moved = moved
        self._limiter = owner._limiter if limited else None
        self._pulse = Pulse(self._told)
        self.place: Storage | None = None

    def run(self, what: str, expected: tuple[type[Exception], ...]) -> Any:
        owner = self._owner
        with owner._lock:
            self.place = owner._idle.pop() if owner._idle else None
        try:
            result = call(self._call, seconds=owner._stall_seconds, what=what, progress=self._pulse)
        except expected:
            self._give_back()
            raise
        except StorageStalled:
            raise
        except Exception:
            if self._again:
                self._give_back()
            raise
        self._give_back()
        return result

    def _call(self) -> Any:
        if self.place is None:
            self.place = open_storage(self._owner._secret_url, self._owner._options)
        return self._work(self.place, self._pulse)

    def _give_back(self) -> None:
        if self.place is not None:
            with self._owner._lock:
                self._owner._idle.append(self.place)

    def _told(self, amount: int) -> None:
        if self._moved is not None:
            self._moved(amount)
        if self._limiter is not None:
            self._limiter.take(amount, waiting=self._pulse.beat)


def _component(url: str, options: Mapping[str, Any]) -> Component:
    if "://" not in url.strip(":/"):
        raise StorageError(
            f"'{public_url(url)}' is not a URL", remedy="for example s3://bucket/runs"
        )
    name = plugins.storage_component(url, plugins.entries("storage"))
    kind = plugins.load("storage", name)
    try:
        # Through JSON, as a recipe's tables go.
        checked = kind.Options.model_validate_json(json.dumps(dict(options)))
    except ValidationError as error:
        prefix = f"storage.{name}"
        found = problems_from(error, prefix=prefix, options=kind.Options, table=options)
        raise StorageError("\n  ".join(str(problem) for problem in found)) from error
    return kind(checked)
