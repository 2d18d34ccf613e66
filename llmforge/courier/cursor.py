"""What one tracker has been given: an offset into the journal and a mark per value name.

A resumed run repeats steps it had already reported. The marks keep those from being delivered a
second time: a value is new only when its step is above the mark of its name.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from llmforge.events import (
    Alert,
    ArtifactWritten,
    CheckpointSaved,
    CheckpointUploaded,
    EvaluationEnded,
    Event,
    HistogramsLogged,
    MetricsLogged,
    SamplesGenerated,
)
from llmforge.rundir.atomic import write_json
from llmforge.rundir.layout import RunDirectory

FORMAT_VERSION = 1


def tracker_cursor(directory: RunDirectory, tracker: str) -> Path:
    """Return the file that remembers what ``tracker`` was given of a run."""
    return directory.cursors / f"tracker-{tracker}.json"


class Cursor:
    """A durable position in the journal; :meth:`save` after every delivery.

    Attributes:
        offset: bytes of the journal that are dealt with.
        delivered: events given to the tracker, over all starts of the run.
        link: where they can be seen, a URL or a command; empty when the tracker does not say.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        self.delivered = 0
        self.link = ""
        self._marks: dict[str, int] = {}
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        self.offset = int(body["offset"])
        self.delivered = int(body["delivered"])
        self.link = str(body.get("link", ""))
        self._marks = {str(name): int(step) for name, step in body["marks"].items()}

    def ahead(self) -> Cursor:
        """Return a copy to move on with while this one waits; it is not to be saved."""
        return copy.deepcopy(self)

    def fresh(self, event: Event) -> Event | None:
        """Return what of ``event`` was not delivered before, None when all of it was."""
        if isinstance(event, Alert):
            return None
        if isinstance(event, MetricsLogged | EvaluationEnded | HistogramsLogged):
            values = {
                name: value
                for name, value in event.values.items()
                if event.step > self._marks.get(_key(event, name), -1)
            }
            return dataclasses.replace(cast("Any", event), values=values) if values else None
        name = _stepped(event)
        if name is not None and getattr(event, "step", 0) <= self._marks.get(name, -1):
            return None
        return event

    def advance(self, event: Event | None, offset: int, *, delivered: bool) -> None:
        """Move past ``event``, which ends at byte ``offset`` of the journal."""
        self.offset = offset
        if event is None or not delivered:
            return
        self.delivered += 1
        values = getattr(event, "values", None)
        step = getattr(event, "step", None)
        if isinstance(values, Mapping) and step is not None:
            for name in values:
                self._marks[_key(event, name)] = step
        else:
            name = _stepped(event)
            if name is not None and step is not None:
                self._marks[name] = step

    def save(self) -> None:
        """Write the cursor in one step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "format_version": FORMAT_VERSION,
            "offset": self.offset,
            "delivered": self.delivered,
            "link": self.link,
            "marks": self._marks,
        }
        write_json(self._path, body, durable=False)


def rewind_cursors(directory: Path) -> None:
    """Let the cursors in ``directory`` begin at the top of a journal that is not theirs.

    Their marks stay, so that nothing is delivered a second time.
    """
    for path in directory.glob("*.json"):
        cursor = Cursor(path)
        cursor.offset = 0
        cursor.save()


def _key(event: Event, name: str) -> str:
    return f"{event.hook}:{name}"


def _stepped(event: Event) -> str | None:
    """Return the mark's name of an event that happens at most once per step, else None."""
    if isinstance(event, SamplesGenerated | CheckpointSaved):
        return event.hook
    if isinstance(event, CheckpointUploaded):  # the newest first, so each step has its own mark
        return _key(event, str(event.step))
    if isinstance(event, ArtifactWritten) and event.step is not None:
        return _key(event, event.name)
    return None
