"""Parts of forge serve: texts one at a time, a model that fails, packages that are missing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_parts import RECIPE, make_trained_run

from llmforge import component
from llmforge.cli.app import app
from llmforge.errors import UsageError
from llmforge.generation import LoadedModel, generate_texts, open_checkpoint
from llmforge.interfaces import Continuation, ContinuationUpdate
from llmforge.serve import engine
from llmforge.serve.engine import Engine
from llmforge.serve.guard import is_loopback, served_names
from llmforge.serve.limits import Limits
from llmforge.serve.listening import bound_socket
from llmforge.serve.one_at_a_time import OneAtATime
from llmforge.serve.served_model import ServedModel, served_model


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    make_trained_run(tmp_path, "text", recipe=RECIPE)
    torch.set_num_threads(1)
    return open_checkpoint("text", root=tmp_path, device="cpu")


def uncached(loaded: LoadedModel) -> ServedModel:
    """Return the model as one that has no cache, and so writes one text at a time."""
    loaded.model.new_cache = None  # type: ignore[assignment, method-assign]
    noted: list[str] = []
    model = served_model(
        loaded, loaded.recipe.selected("generation"), limits=Limits(), note=noted.append
    )
    assert "one at a time" in noted[0]
    assert not model.continuous
    return model


def asked(loaded: LoadedModel, key: int, **fields: Any) -> Continuation:
    values: dict[str, Any] = {"prompt": "abc", "max_new_tokens": 5, "seed": 3, **fields}
    return Continuation(
        key=key,
        prompt_ids=loaded.tokenizer.encode(values["prompt"]),
        options=loaded.recipe.selected("generation").options,
        **values,
    )


def test_a_model_without_a_cache_writes_the_same_one_at_a_time(loaded: LoadedModel) -> None:
    model = uncached(loaded)
    texts = {0: "", 1: ""}

    def report(update: ContinuationUpdate) -> None:
        texts[update.key] += update.text

    for key in texts:
        model.batch.add(asked(loaded, key, ordinal=key))
    while model.batch.busy:
        model.batch.step(report)
    alone = generate_texts(loaded, ["abc"], samples=2, seed=3, max_new_tokens=5)
    assert list(texts.values()) == [item.text for item in alone]


def test_a_text_that_is_cancelled_while_it_is_written_ends_there(loaded: LoadedModel) -> None:
    model = uncached(loaded)
    batch = model.batch
    assert isinstance(batch, OneAtATime)
    seen: list[ContinuationUpdate] = []

    def pulse() -> None:
        if len(seen) == 2:
            batch.cancel(0)

    batch.pulse = pulse
    batch.add(asked(loaded, 0, max_new_tokens=40))
    batch.add(asked(loaded, 1))
    batch.cancel(1)
    while batch.busy:
        batch.step(seen.append)
    assert len(seen) == 2
    assert {update.finish for update in seen} == {None}


class Quiet:
    """Observes nothing."""

    def joined(self, *, prompt_tokens: int) -> None:
        pass

    def written(self, *, tokens: int, first_after: float | None) -> None:
        pass

    def ended(self, *, reason: str, reused: int) -> None:
        pass


class FailsOnce:
    """A fault: a batch whose first step raises as a model does that is out of memory."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, report: Callable[[ContinuationUpdate], None]) -> None:
        if not self._failed:
            self._failed = True
            raise MemoryError("no room")
        self._inner.step(report)


def test_a_step_that_raises_ends_its_answers_and_not_the_server(loaded: LoadedModel) -> None:
    limits = Limits(max_batch=2)
    whole = served_model(
        loaded, loaded.recipe.selected("generation"), limits=limits, note=lambda _: None
    )
    model = ServedModel(
        loaded=loaded,
        selection=whole.selection,
        batch=FailsOnce(whole.batch),
        continuous=True,
    )

    async def two() -> tuple[list[str | None], str]:
        engine = Engine(model, limits=limits, observer=Quiet())
        engine.start()
        errors: list[str | None] = []
        text = ""
        for turn in range(2):
            ticket = engine.submit(model, [asked(loaded, 0)])
            while not ticket.done:
                for _, update in await asyncio.wait_for(ticket.news(), 60):
                    if turn == 0:
                        errors.append(str(update.error))
                    text += update.text
        engine.stop()
        return errors, text

    errors, text = asyncio.run(two())
    assert errors == ["the model failed: MemoryError: no room"]
    (alone,) = generate_texts(loaded, ["abc"], seed=3, max_new_tokens=5)
    assert text == alone.text


class TwoTexts:
    """A batch that writes two texts of so many tokens."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._written = tokens, 0

    @property
    def busy(self) -> bool:
        return self._written < self._tokens

    def add(self, continuation: Continuation) -> None:
        pass

    def step(self, report: Callable[[ContinuationUpdate], None]) -> None:
        self._written += 1
        for key in (0, 1):
            finish = None if self.busy else "length"
            report(ContinuationUpdate(key=key, text="x", tokens=self._written, finish=finish))


def test_tokens_are_sent_together_but_for_the_first_and_the_last(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 3600.0)  # else how many depends on the machine
    monkeypatch.setattr(engine, "_EVENT_SECONDS", 3600.0)
    limits = Limits(max_batch=2)
    selection = loaded.recipe.selected("generation")
    model = ServedModel(loaded=loaded, selection=selection, batch=TwoTexts(200), continuous=True)

    sent: list[list[int]] = []

    class Watched(Engine):
        def _deliver(self, updates: Sequence[ContinuationUpdate]) -> None:
            sent.append([update.tokens for update in updates])
            super()._deliver(updates)

    async def write() -> None:
        serving = Watched(model, limits=limits, observer=Quiet())
        serving.start()
        ticket = serving.submit(model, [asked(loaded, 0), asked(loaded, 1)])
        while not ticket.done:
            await asyncio.wait_for(ticket.news(), 60)
        serving.stop()

    asyncio.run(write())
    assert sent == [[1, 1], [count for count in range(2, 201) for _ in (0, 1)]]


def test_answers_are_not_held_back_for_more_to_send() -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # asyncio turns Nagle's algorithm off for it


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "importable", lambda name: name == "fastapi")
    with pytest.raises(UsageError, match="uvicorn, prometheus_client") as caught:
        app(["serve", "none"], standalone_mode=False)
    assert "pip install" in caught.value.remedy


def test_what_only_this_machine_reaches() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
    assert served_names("::1", ["A.example"]) >= {"::1", "a.example", "localhost"}
