"""How the upload of each checkpoint stands: written by the courier, read by everyone.

These files are what ``forge uploads status`` shows and what keeps a checkpoint from being deleted
before it is safe. Whether a checkpoint is in storage is decided there, by its COMMIT.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from llmforge.redaction import redact_values
from llmforge.rundir.atomic import write_json
from llmforge.rundir.layout import RunDirectory

log = logging.getLogger(__name__)

FORMAT_VERSION = 1

UploadState = Literal[
    "queued", "archiving", "uploading", "verifying", "committed", "failed", "cancelled"
]

KEPT_FORMAT_VERSION = 1


@dataclass
class UploadRecord:
    """The upload of one checkpoint.

    Attributes:
        step: of the checkpoint.
        checkpoint: which checkpoint of the step it is: tells two of them apart.
        state: how far it is; a ``failed`` one is tried again, a ``cancelled`` one was superseded.
        token: the prefix its objects are under, so that another try resumes them.
        size: bytes to send in all.
        sent: bytes sent by the present try.
        tries: how often it was started.
        seconds: the present or last try took.
        error: what the last failed try met.
        final: whether the failure is one that another try would meet again.
        url: where the checkpoint is, or is to be; tells two places of one run apart.
        leftovers: tokens of uploads of this step that were given up and may have left objects.
        cleaned: whether the local checkpoint was deleted since.
        updated: seconds since the epoch.
    """

    step: int
    checkpoint: str = ""
    state: UploadState = "queued"
    token: str = ""
    size: int = 0
    sent: int = 0
    tries: int = 0
    seconds: float = 0.0
    error: str = ""
    final: bool = False
    url: str = ""
    leftovers: list[str] = field(default_factory=list)
    cleaned: bool = False
    updated: float = 0.0
    format_version: int = FORMAT_VERSION


_FIELDS = frozenset(item.name for item in dataclasses.fields(UploadRecord))


def read_uploads(directory: RunDirectory) -> dict[int, UploadRecord]:
    """Return the records of a run's uploads by step.

    A damaged one counts as none: the upload is looked up in storage, and done again if need be.
    """
    found = {}
    for path in sorted(directory.uploads.glob("step-*.json")):
        try:
            body: dict[str, Any] = json.loads(path.read_bytes())
            record = UploadRecord(**{key: body[key] for key in body if key in _FIELDS})
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, LookupError) as error:
            log.debug("%s is damaged and passed over: %s", path, error)
            continue
        found[record.step] = record
    return found


def write_upload(directory: RunDirectory, record: UploadRecord, *, durable: bool = True) -> None:
    """Write one record in one step."""
    directory.uploads.mkdir(exist_ok=True)
    path = directory.uploads / f"step-{record.step:08d}.json"
    write_json(path, redact_values(dataclasses.asdict(record)), durable=durable)


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint that is safe in a tracker's service: read back and verified there.

    Such records lie beside those of uploads, and let a checkpoint be deleted here as those do.

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
    format_version: int = KEPT_FORMAT_VERSION


_KEPT_FIELDS = frozenset(item.name for item in dataclasses.fields(KeptCheckpoint))


def write_kept(directory: RunDirectory, kept: KeptCheckpoint) -> None:
    """Write the record of a checkpoint that a tracker keeps, in one step."""
    directory.uploads.mkdir(exist_ok=True)
    path = directory.uploads / f"kept-{kept.step:08d}.json"
    write_json(path, dataclasses.asdict(kept))


def read_kept(directory: RunDirectory) -> dict[int, KeptCheckpoint]:
    """Return what trackers keep, by step.

    A record that is damaged counts as none, so its checkpoint stays.
    """
    found = {}
    for path in sorted(directory.uploads.glob("kept-*.json")):
        try:
            body = json.loads(path.read_bytes())
            kept = KeptCheckpoint(**{key: body[key] for key in body if key in _KEPT_FIELDS})
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read, its checkpoint stays here: %s", path, error)
            continue
        found[kept.step] = kept
    return found
