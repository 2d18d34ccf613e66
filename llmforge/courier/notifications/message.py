"""The message about a run: a title and a few lines, from an alert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.events import Alert
from llmforge.progress import duration

_MARKS = {"finish": "✅", "failure": "❌", "stall": "⏳", "interrupt": "⏸"}
_NOT_ENDED = ("stalled",)


@dataclass(frozen=True)
class Message:
    """What people read: ``title`` on one line, ``text`` on several, and the ``facts`` behind it."""

    title: str
    text: str
    facts: Mapping[str, Any]

    @property
    def whole(self) -> str:
        """Title and text together."""
        return f"{self.title}\n{self.text}"


def message_of(alert: Alert) -> Message:
    """Return the message that says what ``alert`` does."""
    facts = alert.facts
    title = f"{_MARKS.get(alert.occasion, '')} {facts['run']} {facts['state']}".strip()
    lines = [str(facts.get("reason") or ""), _progress(facts), _losses(facts)]
    if facts.get("name") and facts["name"] != facts["run"]:
        lines.append(f"name: {facts['name']}")
    if facts.get("host"):
        lines.append(f"on {facts['host']}: {facts['directory']}")
    if facts.get("next_command"):
        lines.append(f"next: {facts['next_command']}")
    text = "\n".join(line for line in lines if line)
    return Message(title, text, {"event": alert.occasion, "time": alert.time, **facts})


def _progress(facts: Mapping[str, Any]) -> str:
    total = facts.get("total_steps")
    steps = f"step {facts['step']:,}" + (f" of {total:,}" if total else "")
    word = "for" if facts["state"] in _NOT_ENDED else "after"
    return f"{steps}, {word} {duration(facts.get('seconds') or 0.0)}"


def _losses(facts: Mapping[str, Any]) -> str:
    best = facts.get("best") or {}
    parts = []
    if "value" in best:
        parts.append(f"best {best['metric']} {_number(best['value'])} at step {best['step']:,}")
    if best.get("metric") != "val/loss" and facts.get("val_loss") is not None:
        parts.append(f"val/loss {_number(facts['val_loss'])}")
    if facts.get("train_loss") is not None:
        parts.append(f"train/loss {_number(facts['train_loss'])}")
    return ", ".join(parts)


def _number(value: Any) -> str:
    usable = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.4f}" if usable else str(value)
