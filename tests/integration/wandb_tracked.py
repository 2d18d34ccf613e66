"""A run directory whose journal is delivered to the W&B tracker, and events to put there."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from wandb_server import RemoteRun, WandbServer

from llmforge.courier import JournalWriter
from llmforge.courier.delivery import Delivery
from llmforge.events import (
    ArtifactWritten,
    CheckpointSaved,
    EvaluationEnded,
    Event,
    HistogramsLogged,
    MetricsLogged,
    RunEnded,
    RunStarted,
    SamplesGenerated,
)
from llmforge.plugins import build_manager, load
from llmforge.testing import make_component


class Tracked:
    """A run that is tracked by W&B.

    Args:
        directory: of the run.
        options: of the tracker.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = {"project": "mine", **options}
        self.failures: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> Path:
        """What the tracker wrote."""
        return self.directory / "trackers" / "wandb"

    @property
    def identity(self) -> dict[str, str]:
        """Id and place of the W&B run, as written down."""
        found: dict[str, str] = json.loads((self.files / "run.json").read_text())
        return found

    def remote(self, server: WandbServer) -> RemoteRun:
        """The W&B run on a server."""
        return server.runs[self.identity["id"]]

    def started(self, restart: int = 1, **changes: Any) -> RunStarted:
        """Return a start of this run."""
        fields: dict[str, Any] = {
            "run_id": "single_bs4",
            "attempt": 1,
            "restart": restart,
            "directory": str(self.directory),
            "config": {"run": {"seed": 7, "notes": "a try"}, "train": {"max_steps": 40}},
            "facts": {"name": "nano-test", "tags": ["nano", "single"], "parameters": 1000},
        }
        return RunStarted(**(fields | changes))

    def journal(self, *told: Event) -> None:
        """Append events, as the training process does."""
        writer = JournalWriter(self.directory / "journal.jsonl")
        for event in told:
            writer.append(event)
        writer.close()

    def delivery(self) -> Delivery:
        """Start to deliver with a fresh tracker, as a new courier does."""
        tracker = make_component(load("tracker", "wandb"), self.options)
        manager = build_manager([tracker])
        thread = Delivery(
            tracker,
            call=lambda hook, event: getattr(manager.hook, hook)(event=event),
            journal=self.directory / "journal.jsonl",
            cursor=self.cursor,
            on_error=lambda _, message: self.failures.append(message),
        )
        thread.start()
        return thread

    @property
    def cursor(self) -> Path:
        """What was delivered."""
        return self.directory / "cursor.json"

    def deliver(self, *told: Event, within: float = 60) -> Delivery:
        """Append events, and deliver what waits with a fresh tracker until all of it arrived."""
        self.journal(*told)
        thread = self.delivery()
        thread.close()
        thread.join(within)
        assert not thread.is_alive(), self.failures
        return thread

    def write(self, relative: str, content: bytes) -> Path:
        """Write a file of the run."""
        path = self.directory / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def metrics(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values or {"loss": 1 / step}, time=1e9 + step)


def evaluation(step: int, value: float = 2.0) -> EvaluationEnded:
    return EvaluationEnded(step=step, split="validation", values={"val/loss": value}, time=1e9)


def histograms(step: int) -> HistogramsLogged:
    values = {"weights/head": {"edges": [0.0, 0.5, 1.0], "counts": [3.0, 4.0]}}
    return HistogramsLogged(step=step, values=values)


def samples(step: int, *texts: str) -> SamplesGenerated:
    rows = tuple({"step": step, "prompt": "The", "text": text, "tokens": 5} for text in texts)
    return SamplesGenerated(step=step, samples=rows)


def saved(step: int, *, is_best: bool = False) -> CheckpointSaved:
    path = f"checkpoints/step-{step:08d}"
    return CheckpointSaved(step=step, path=path, size=1, is_best=is_best, seconds=0.1)


def plot(name: str) -> ArtifactWritten:
    return ArtifactWritten(name=name, path=f"plots/{name}.png", type="plot")


def recipe() -> ArtifactWritten:
    return ArtifactWritten(name="recipe", path="recipe.toml", type="recipe")


def end(step: int, state: str = "completed", **values: Any) -> RunEnded:
    return RunEnded(state=state, reason="all steps taken", step=step, metrics=values)


def picture(width: int = 5, height: int = 3) -> bytes:
    """Return a grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
