"""``annotations.json``: what people say about a run afterwards: its name, tags and a note.

It is a file of its own because the process that trains a run rewrites ``run.json`` all the time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from llmforge.errors import RunError
from llmforge.rundir.atomic import write_json, write_remedy
from llmforge.rundir.changes import mark_changed
from llmforge.rundir.layout import RunDirectory

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What was said about a run since it was started.

    Attributes:
        name: the display name; None where nobody renamed the run.
        note: a text of any length; None where nobody wrote one.
        added: tags beyond those of the recipe.
        removed: tags of the recipe that were taken off.
    """

    name: str | None = None
    note: str | None = None
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    def tags(self, own: Collection[str]) -> list[str]:
        """Return the tags of a run whose recipe gives it ``own``."""
        kept = [tag for tag in own if tag not in self.removed]
        return list(dict.fromkeys([*kept, *self.added]))

    def tagged(
        self, own: Collection[str], *, add: Collection[str], remove: Collection[str]
    ) -> Annotations:
        """Return annotations with tags added and taken off; ``own`` are those of the recipe."""
        added = [tag for tag in self.added if tag not in remove]
        removed = [tag for tag in self.removed if tag not in add]
        return dataclasses.replace(
            self,
            added=list(dict.fromkeys([*added, *(tag for tag in add if tag not in own)])),
            removed=list(dict.fromkeys([*removed, *(tag for tag in remove if tag in own)])),
        )


_FIELDS = frozenset(item.name for item in dataclasses.fields(Annotations))


def read_annotations(directory: RunDirectory) -> Annotations:
    """Return what was said about a run; nothing when there is no such file.

    Raises:
        RunError: the file is damaged.
    """
    try:
        body: dict[str, Any] = json.loads(directory.annotations.read_bytes())
        said = Annotations(**{key: value for key, value in body.items() if key in _FIELDS})
        texts = [item for item in (said.name, said.note) if item is not None]
        if not all(isinstance(item, str) for item in [*texts, *said.added, *said.removed]):
            raise TypeError("name, note and tags are texts")
        return said
    except (FileNotFoundError, NotADirectoryError):
        return Annotations()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{directory.annotations} cannot be read: {error}",
            remedy="correct it, or remove it: it holds only the run's tags, note and name",
        ) from error


def write_annotations(directory: RunDirectory, annotations: Annotations) -> None:
    """Write what was said about a run, in one step.

    Raises:
        RunError: the run's directory does not take it.
    """
    try:
        write_json(directory.annotations, dataclasses.asdict(annotations))
    except OSError as error:
        raise RunError(
            f"{directory.annotations} cannot be written: {error.strerror}",
            remedy=write_remedy(error, str(directory.path)),
        ) from error
    mark_changed(directory.root, directory.id)
