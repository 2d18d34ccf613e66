"""Files of results, one JSON list each, that hold the newest of their kind."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import RunError
from llmforge.rundir.atomic import write_json


def keep_newest(path: Path, rows: Sequence[Mapping[str, Any]], *, by: Collection[str]) -> None:
    """Add ``rows`` to the list in ``path``, in place of those with the same values of ``by``.

    Raises:
        RunError: the file is damaged or cannot be written; ``rows`` are not in it.
    """

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in by)

    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        new = {key(row) for row in rows}
        write_json(path, [*(row for row in before if key(row) not in new), *rows])
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is damaged: {error}"
        raise RunError(
            f"the results cannot be saved in {path}: {why}",
            remedy="--json prints them; move a damaged file aside",
        ) from error
