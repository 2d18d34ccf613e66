"""Event files through TensorBoard's own writer and reader; torch is not needed.

The protocol buffers are TensorBoard's (``tensorboard.compat.proto``); every call is on the disk
when it returns, so that the courier may count it as delivered. What the files of earlier processes
already have is not written again.
"""

from __future__ import annotations

import struct
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_STRING = 7  # DataType.DT_STRING
_RGBA = 4  # channels; the viewer reads the file itself
_PNG = b"\x89PNG\r\n\x1a\n"


class EventFiles:
    """One new event file in ``directory``, and the last step of every tag in the older ones."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._last = last_steps(directory)
        self._writer = EventFileWriter(str(directory))

    def scalars(self, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Write each of ``values`` under its name."""
        items = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(items, step=step, time=time)

    def histograms(self, values: Mapping[str, Mapping[str, Sequence[float]]], *, step: int) -> None:
        """Write each histogram (``edges`` and ``counts``) under its name, unless empty."""
        self._add(
            [
                Summary.Value(tag=name, histo=_histogram(item["edges"], item["counts"]))
                for name, item in values.items()
                if item["counts"]
            ],
            step=step,
        )

    def text(self, tag: str, text: str, *, step: int) -> None:
        """Write ``text`` (Markdown) under ``<tag>/text_summary``, where the text page looks."""
        kind = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="text", content=b"")
        )
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(
            dtype=_STRING, string_val=[text.encode(errors="replace")], tensor_shape=shape
        )
        self._add(
            [Summary.Value(tag=f"{tag}/text_summary", metadata=kind, tensor=tensor)], step=step
        )

    def image(self, tag: str, path: Path, *, step: int) -> None:
        """Write a PNG file; other formats are left out."""
        content = path.read_bytes()
        if not content.startswith(_PNG):
            return
        width, height = struct.unpack(">II", content[16:24])
        image = Summary.Image(
            encoded_image_string=content, width=width, height=height, colorspace=4
        )
        self._add([Summary.Value(tag=tag, image=image)], step=step)

    def hyperparameters(self, config: Mapping[str, Any]) -> None:
        """Write the recipe's values for the hparams page, once in the life of the run."""
        self._add(summary_v2.hparams_pb(dict(_flat(config))).value, step=0)

    def final(self, metrics: Mapping[str, Any], *, step: int, succeeded: bool) -> None:
        """Write the final metrics, as ``final/NAME``, and the end for the hparams page."""
        numbers = {
            f"final/{name}": float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
        }
        self.scalars(numbers, step=step, time=clock.time())
        status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
        ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=clock.time())
        kind = metadata.create_summary_metadata(
            plugin_data_pb2.HParamsPluginData(session_end_info=ended)
        )
        end = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=kind, tensor=metadata.NULL_TENSOR
        )
        self._add([end], step=step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(
        self, values: Sequence[Summary.Value], *, step: int, time: float | None = None
    ) -> None:
        fresh = [value for value in values if step > self._last.get(value.tag, -1)]
        if not fresh:
            return
        wall_time = clock.time() if time is None else time
        self._writer.add_event(Event(summary=Summary(value=fresh), step=step, wall_time=wall_time))
        self._writer.flush()
        self._last.update((value.tag, step) for value in fresh)


def last_steps(directory: Path) -> dict[str, int]:
    """Return the last step of every tag in the event files of ``directory``.

    The courier may have been killed after a call was written and before it noted that.
    """
    found: dict[str, int] = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():  # ends at a torn record
            for value in event.summary.value:
                found[value.tag] = max(event.step, found.get(value.tag, -1))
    return found


def _histogram(edges: Sequence[float], counts: Sequence[float]) -> HistogramProto:
    """Return TensorBoard's form of a histogram; sums are those of the buckets' middles."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    weighted = list(zip(middles, counts, strict=True))
    return HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(middle * count for middle, count in weighted),
        sum_squares=sum(middle * middle * count for middle, count in weighted),
        bucket_limit=edges[1:],
        bucket=counts,
    )


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            yield name, value
        elif isinstance(value, list):
            yield name, ", ".join(str(item) for item in value)
