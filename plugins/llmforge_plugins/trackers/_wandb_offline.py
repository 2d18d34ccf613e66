"""Reading the files that the W&B client writes: the run's transaction log.

A ``.wandb`` file is framed like a LevelDB log: after a header of 7 bytes come blocks of 32 KiB with
records of ``checksum, length, kind``; a record that does not fit is written in parts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge_plugins.trackers._wandb_service import Tail, tail_of

_BLOCK = 32 * 1024
_FILE_HEADER = 7
_HEADER = struct.Struct("<IHB")
_LAST_PARTS = (1, 4)  # a whole record, or the last part of one


def records(path: Path) -> Iterator[Any]:
    """Yield the complete records of a file (``wandb.proto.wandb_internal_pb2.Record``)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    position, parts = _FILE_HEADER, b""
    while position + _HEADER.size <= len(content):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER.size:
            position += room
            continue
        _, length, kind = _HEADER.unpack_from(content, position)
        position += _HEADER.size
        if kind == 0 or position + length > len(content):
            return  # padding, or the end is not written yet
        parts += content[position : position + length]
        position += length
        if kind in _LAST_PARTS:
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the history in a file."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {"_step": record.history.step.num}
            for item in record.history.item:
                *tables, name = item.nested_key or [item.key]
                place = row
                for table in tables:
                    place = place.setdefault(table, {})
                place[name] = json.loads(item.value_json)
            yield row


def offline_tail(directory: Path, run: str) -> Tail:
    """Return the end of the history in all offline files of a run."""
    found = Tail()
    for path in sorted(directory.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")):
        for row in history(path):
            if row["_step"] >= found.step:
                found = tail_of(row)
    return found
