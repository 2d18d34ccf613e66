"""The TensorBoard tracker's event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)

from llmforge.events import (
    ArtifactWritten,
    Event,
    HistogramsLogged,
    MetricsLogged,
    RunEnded,
    RunStarted,
    SamplesGenerated,
)
from llmforge.plugins import build_manager, load
from llmforge.testing import make_component

ALL = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}


class Board:
    """The tracker in a run directory, and a reader of what it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, *told: Event, **options: Any) -> None:
        """Tell a new tracker, as a new courier makes it, the start and ``told``."""
        tracker = make_component(load("tracker", "tensorboard"), options)
        manager = build_manager([tracker])
        where, config = str(self.path), {"train": {"max_steps": 5}, "run": {"tags": ["a", "b"]}}
        start = RunStarted(run_id="r", attempt=1, restart=1, directory=where, config=config)
        for event in (start, *told):
            getattr(manager.hook, event.hook)(event=event)

    @property
    def directory(self) -> Path:
        return self.path / "trackers" / "tensorboard"

    def read(self) -> EventAccumulator:
        reader = EventAccumulator(str(self.directory), ALL, purge_orphaned_data=False)
        reader.Reload()
        return reader

    def scalars(self, tag: str) -> list[tuple[int, float]]:
        return [(item.step, item.value) for item in self.read().Scalars(tag)]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def metrics(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values, time=float(step))


def samples(step: int, text: str = "end", **more: Any) -> SamplesGenerated:
    return SamplesGenerated(step=step, samples=({"prompt": "The ", "text": text, **more},))


def plot(name: str, step: int | None = None) -> ArtifactWritten:
    return ArtifactWritten(name=name, path=f"plots/{name}.png", type="plot", step=step)


def end(step: int, state: str = "completed", metrics: Any = None) -> RunEnded:
    return RunEnded(state=state, reason="all done", step=step, metrics=metrics or {})


def write_png(path: Path, *, width: int, height: int) -> bytes:
    """Write a grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def test_what_a_killed_courier_wrote_without_noting_it_is_there_once(board: Board) -> None:
    counts = HistogramsLogged(step=2, values={"w": {"edges": [0.0, 1.0], "counts": [2.0]}})
    told = [metrics(1, loss=2.0), metrics(2, loss=1.5), samples(2), counts]
    board.start(*told)  # killed: no forge_run_end
    board.start(*told, metrics(3, loss=1.0), samples(3))
    assert board.scalars("loss") == [(1, 2.0), (2, 1.5), (3, 1.0)]
    read = board.read()
    assert [item.step for item in read.Tensors("samples/0/text_summary")] == [2, 3]
    assert [item.step for item in read.Histograms("w")] == [2]
    assert len(list(board.directory.iterdir())) == 2


def test_a_record_torn_by_a_kill_hides_nothing_that_follows(board: Board) -> None:
    board.start(metrics(1, loss=2.0), metrics(2, loss=1.5))
    (first,) = board.directory.iterdir()
    first.write_bytes(first.read_bytes()[:-7])
    board.start(metrics(2, loss=1.5), metrics(3, loss=1.0))
    assert board.scalars("loss") == [(1, 2.0), (2, 1.5), (3, 1.0)]


def test_histograms_keep_edges_and_counts(board: Board) -> None:
    values = {"edges": [-1.0, 0.0, 0.5, 2.0], "counts": [3.0, 4.0, 1.0]}
    board.start(HistogramsLogged(step=7, values={"weights/head": values}))
    (found,) = board.read().Histograms("weights/head")
    histogram = found.histogram_value
    assert (found.step, histogram.min, histogram.max, histogram.num) == (7, -1.0, 2.0, 8.0)
    assert list(histogram.bucket_limit) == [0.0, 0.5, 2.0]
    assert list(histogram.bucket) == [3.0, 4.0, 1.0]


def test_a_plot_is_an_image_at_the_step_the_run_is_at(board: Board) -> None:
    content = write_png(board.path / "plots" / "loss.png", width=5, height=3)
    board.start(metrics(4, loss=1.0), plot("loss"), plot("gone"))
    read = board.read()
    assert read.Tags()["images"] == ["plots/loss"]
    (image,) = read.Images("plots/loss")
    assert (image.step, image.width, image.height) == (4, 5, 3)
    assert image.encoded_image_string == content


def test_samples_are_texts_with_their_numbers(board: Board) -> None:
    board.start(samples(3, "river flows", tokens=5, seconds_per_token=0.25))
    (item,) = board.read().Tensors("samples/0/text_summary")
    text = item.tensor_proto.string_val[0].decode()
    assert text == "**The **river flows\n\ntokens 5, seconds_per_token 0.25"


def test_the_recipe_and_the_final_metrics_are_hyperparameters(board: Board) -> None:
    board.start(metrics(1, loss=2.0), end(1, "interrupted", {"val/loss": 3.0}))
    final = {"val/loss": 2.5, "state": "completed", "step": 5}
    board.start(metrics(5, loss=1.0), end(5, metrics=final))
    assert board.scalars("final/val/loss") == [(1, 3.0), (5, 2.5)]
    read = board.read()
    assert [tag for tag in read.Tags()["scalars"] if tag.startswith("final/")] == ["final/val/loss"]
    started = read.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    values = parse_session_start_info_plugin_data(started).hparams
    assert values["train.max_steps"].number_value == 5
    assert values["run.tags"].string_value == "a, b"


def test_what_an_option_turns_off_is_not_written(board: Board) -> None:
    write_png(board.path / "plots" / "loss.png", width=1, height=1)
    counts = HistogramsLogged(step=1, values={"w": {"edges": [0.0, 1.0], "counts": [2.0]}})
    everything = [metrics(1, loss=2.0), samples(1), counts, plot("loss"), end(1)]
    board.start(*everything, samples=False, plots=False, histograms=False, hparams=False)
    tags = board.read().Tags()
    assert tags["scalars"] == ["loss"]
    assert (tags["images"], tags["histograms"]) == ([], [])
    assert tags["tensors"] == ["run/end/text_summary"]
