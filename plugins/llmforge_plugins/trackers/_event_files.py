"""Event files through TensorBoard's own writer; torch is not needed.

The protocol buffers are TensorBoard's (``tensorboard.compat.proto``); every call is on the disk
when it returns, so that the courier may count it as delivered.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_STRING = 7  # DataType.DT_STRING


class EventFiles:
    """One event file in ``directory``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(directory))

    def scalars(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Write each of ``values`` under its name."""
        items = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Summary(value=items), step=step, time=time)

    def text(self, tag: str, text: str, *, step: int) -> None:
        """Write ``text`` (Markdown) under ``<tag>/text_summary``, where the text page looks."""
        metadata = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="text", content=b"")
        )
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=_STRING, string_val=[text.encode()], tensor_shape=shape)
        value = Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
        self._add(Summary(value=[value]), step=step, time=clock.time())

    def hyperparameters(self, config: Mapping[str, Any]) -> None:
        """Write the recipe's values for the hparams page."""
        self._add(summary_v2.hparams_pb(dict(_flat(config))), step=0, time=clock.time())

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, summary: Summary, *, step: int, time: float) -> None:
        self._writer.add_event(Event(summary=summary, step=step, wall_time=time))
        self._writer.flush()


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            yield name, value
        elif isinstance(value, list):
            yield name, ", ".join(str(item) for item in value)
