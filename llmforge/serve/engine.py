"""One thread that owns the model, and the event loop's side of it.

The event loop never computes, and the thread never waits for a client: requests go to it through a
queue, and what it wrote comes back as one call for a token of the whole batch, or for a few.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llmforge.errors import ForgeError
from llmforge.interfaces import Continuation, ContinuationUpdate
from llmforge.serve.api_errors import ApiError
from llmforge.serve.limits import Limits
from llmforge.serve.one_at_a_time import OneAtATime
from llmforge.serve.served_model import ServedModel

_FLUSH_SECONDS = 0.02
"""How long text may wait while the model writes on."""
_EVENT_SECONDS = 0.0015
"""Time between two events of a text, for each text that is being written.

An event takes a tenth of that from the interpreter, for which the model then waits.
"""
_MEMORY = 0.9
"""Weight of the past in the mean duration of an answer."""


class Observer(Protocol):
    """Is told what happens, on the event loop."""

    def joined(self, *, prompt_tokens: int) -> None:
        """See a continuation that was taken."""
        ...

    def written(self, *, tokens: int, first_after: float | None) -> None:
        """See new tokens of a continuation; the first of them came after so many seconds."""
        ...

    def ended(self, *, reason: str, reused: int) -> None:
        """See the end of a continuation: its finish, ``error`` or ``cancelled``."""
        ...


@dataclass
class _Open:
    """A continuation that has not ended."""

    ticket: Ticket
    since: float
    tokens: int = 0
    reused: int = 0


class Ticket:
    """The continuations of one request, as the event loop sees them.

    Attributes:
        abandoned: whether the client is gone.
    """

    def __init__(self, engine: Engine, keys: Sequence[int]) -> None:
        self._engine = engine
        self._places = {key: place for place, key in enumerate(keys)}
        self._open = set(keys)
        self._fresh: list[tuple[int, ContinuationUpdate]] = []
        self._wake = asyncio.Event()
        self.abandoned = False

    @property
    def done(self) -> bool:
        """Return whether every continuation ended and was handed out."""
        return not self._open and not self._fresh

    def push(self, update: ContinuationUpdate) -> None:
        """Take what is new of a continuation."""
        if update.finish is not None or update.error is not None:
            self._open.discard(update.key)
        self._fresh.append((self._places[update.key], update))
        self._wake.set()

    async def news(self) -> list[tuple[int, ContinuationUpdate]]:
        """Return (place, update) of all that is new, in order; waits until there is something."""
        await self._wake.wait()
        self._wake.clear()
        fresh, self._fresh = self._fresh, []
        return fresh

    def abandon(self) -> None:
        """Give up as the client is gone."""
        self.abandoned = True
        self._wake.set()

    def close(self) -> None:
        """Give up what is not finished; its place in the batch is free at the next token."""
        self._engine.give_up(self._open)
        self._open = set()


class Engine:
    """Answers continuations with the newest model.

    Args:
        model: to begin with.
        limits: of the server.
        observer: is told what happens.
    """

    def __init__(self, model: ServedModel, *, limits: Limits, observer: Observer) -> None:
        self.model = model
        self.limits = limits
        self.stopping = False
        self._observer = observer
        self._keys = itertools.count()
        self._open: dict[int, _Open] = {}
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="forge-serve-model", daemon=True)
        self._mean_seconds = 1.0
        # the thread's own
        self._models: list[ServedModel] = []
        self._written: list[ContinuationUpdate] = []
        self._flushed = 0.0
        self._ended = False

    # The event loop's side -----------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._admit(self.model)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Return how many continuations are written or wait."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Return how many of them wait for a place, about."""
        return max(0, self.unfinished - self.places)

    @property
    def places(self) -> int:
        """Return how many are written at once."""
        return self.limits.max_batch if self.model.continuous else 1

    def submit(self, model: ServedModel, asked: Sequence[Continuation]) -> Ticket:
        """Take the continuations of a request.

        Raises:
            ApiError: 429 when too many wait.
        """
        room = self.places + self.limits.max_queue - self.unfinished
        if len(asked) > room:
            seconds = math.ceil(self._mean_seconds * (self.unfinished / self.places))
            raise ApiError(
                429,
                f"the server is busy: {self.unfinished} answers are written or wait; try later",
                code="queue_full",
                headers={"Retry-After": str(min(60, max(1, seconds)))},
            )
        keyed = [replace(item, key=next(self._keys)) for item in asked]
        ticket = Ticket(self, [item.key for item in keyed])
        now = time.monotonic()
        for item in keyed:
            self._open[item.key] = _Open(ticket, now)
            self._observer.joined(prompt_tokens=len(item.prompt_ids))

        def add() -> None:
            if model not in self._models:  # it was replaced and had nothing left to write
                self._models.append(model)
            for item in keyed:
                model.batch.add(item)

        self._commands.put(add)
        return ticket

    def give_up(self, keys: set[int]) -> None:
        """Cancel continuations."""
        known = keys & self._open.keys()
        for key in known:
            self._observer.ended(reason="cancelled", reused=self._open.pop(key).reused)
        if known:
            self._commands.put(lambda: self._cancel(known))

    def fail_all(self, error: ForgeError) -> int:
        """End every continuation with ``error``; return how many there were."""
        keys = list(self._open)
        self._commands.put(lambda: self._cancel(set(keys)))
        self._deliver([ContinuationUpdate(key=key, error=error) for key in keys])
        return len(keys)

    def replace(self, model: ServedModel) -> None:
        """Answer later requests with another model; those under way keep theirs."""
        self.model = model
        self._admit(model)

    def stop(self) -> None:
        """End the thread after the token it is writing."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _admit(self, model: ServedModel) -> None:
        if isinstance(model.batch, OneAtATime):
            model.batch.pulse = lambda: self._take_commands(wait=False)
        self._commands.put(lambda: self._models.append(model))

    def _deliver(self, updates: Sequence[ContinuationUpdate]) -> None:
        now = time.monotonic()
        for update in updates:
            item = self._open.get(update.key)
            if item is None:
                continue  # given up meanwhile
            if update.tokens > item.tokens:
                first = None if item.tokens else now - item.since
                self._observer.written(tokens=update.tokens - item.tokens, first_after=first)
                item.tokens, item.reused = update.tokens, update.reused
            if update.finish is not None or update.error is not None:
                del self._open[update.key]
                self._mean_seconds += (1 - _MEMORY) * (now - item.since - self._mean_seconds)
                self._observer.ended(reason=update.finish or "error", reused=item.reused)
            item.ticket.push(update)

    # The thread's side ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            self._take_commands(wait=not any(model.batch.busy for model in self._models))
            for model in self._models:
                if model.batch.busy and not self._ended:
                    self._step(model)
            if self._is_due():
                self._flush()
            self._retire()

    def _step(self, model: ServedModel) -> None:
        try:
            model.batch.step(self._report)
        except Exception as error:  # whatever a model raises ends its answers, not the server
            traceback.print_exc()
            told = error if isinstance(error, ForgeError) else ForgeError(_short(error))
            self._call_loop(lambda: self.fail_all(told))
            self._take_commands(wait=True)  # among them the one that empties the batch

    def _report(self, update: ContinuationUpdate) -> None:
        self._written.append(update)
        late = time.monotonic() - self._flushed > _FLUSH_SECONDS
        if late and any(isinstance(model.batch, OneAtATime) for model in self._models):
            self._flush()

    def _is_due(self) -> bool:
        """Return whether what is written has to be sent: beginnings and ends are, at once."""
        if any(update.tokens < 2 or update.finish or update.error for update in self._written):
            return True
        texts = len({update.key for update in self._written})
        return time.monotonic() - self._flushed >= min(_FLUSH_SECONDS, _EVENT_SECONDS * texts)

    def _flush(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._call_loop(lambda: self._deliver(written))
        self._flushed = time.monotonic()

    def _call_loop(self, call: Callable[[], Any]) -> None:
        assert self._loop is not None, "start comes first"
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody waits for an answer
            self._ended = True

    def _take_commands(self, *, wait: bool) -> None:
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if command is None:
                self._ended = True
                return
            command()

    def _cancel(self, keys: set[int]) -> None:
        for model in self._models:
            for key in keys:
                model.batch.cancel(key)

    def _retire(self) -> None:
        """Let go of models that were replaced and have nothing left to write."""
        kept = [item for item in self._models if item is self.model or item.batch.busy]
        if len(kept) < len(self._models):
            self._models = kept
            gc.collect()


def _short(error: Exception) -> str:
    return f"the model failed: {type(error).__name__}: {str(error)[:200]}"
