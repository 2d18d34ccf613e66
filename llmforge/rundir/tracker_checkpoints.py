"""Which checkpoints a tracker's service keeps, read back and verified: written by the courier.

They are beside the records of uploads, and let a checkpoint be deleted here as those do.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass

from llmforge.rundir.atomic import write_json
from llmforge.rundir.layout import RunDirectory

FORMAT_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint that is safe in a tracker's service.

    Attributes:
        step: of the checkpoint.
        created: when it was written, as its manifest has it: tells two of one step apart.
        tracker: whose service it is.
        address: of the run there.
    """

    step: int
    created: str
    tracker: str
    address: str
    format_version: int = FORMAT_VERSION


_FIELDS = frozenset(item.name for item in dataclasses.fields(KeptCheckpoint))


def write_kept(directory: RunDirectory, kept: KeptCheckpoint) -> None:
    """Write one record in one step."""
    directory.uploads.mkdir(exist_ok=True)
    path = directory.uploads / f"kept-{kept.step:08d}.json"
    write_json(path, dataclasses.asdict(kept))


def read_kept(directory: RunDirectory) -> dict[int, KeptCheckpoint]:
    """Return the records by step; one that is damaged counts as none, so its checkpoint stays."""
    found = {}
    for path in sorted(directory.uploads.glob("kept-*.json")):
        try:
            body = json.loads(path.read_bytes())
            kept = KeptCheckpoint(**{key: body[key] for key in body if key in _FIELDS})
        except (OSError, ValueError, TypeError) as error:
            _log.warning("%s cannot be read, its checkpoint stays here: %s", path, error)
            continue
        found[kept.step] = kept
    return found
