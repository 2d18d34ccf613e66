"""The names of a run's labels, kept beside its tokenizer: a model is of no use without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llmforge.errors import DataError
from llmforge.rundir.atomic import write_text

_LABELS = "labels.json"


def save_labels(directory: Path, labels: Sequence[str]) -> None:
    """Keep the names in the order of their numbers; nothing is written where there are none."""
    if labels and load_labels(directory) != tuple(labels):
        text = json.dumps(list(labels), ensure_ascii=False, indent=1) + "\n"
        write_text(directory / _LABELS, text)


def load_labels(directory: Path) -> tuple[str, ...]:
    """Return the names kept in ``directory``, none where there are none.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / _LABELS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path} is not a list of names")
    return tuple(found)
