"""Runs of one and of two processes through ``llmforge.train``: the same sequences, the same losses.

Also across a resume with another number of processes. Tolerance: losses agree to 1e-5 relative in
fp32, where only the order of sums differs.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

RECIPE = """\
[run]
id = "ranks"
[model]
name = "transformer"
[model.transformer]
layers = 1
width = 16
heads = 2
context = 16
dropout = 0.1
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
train = "train.txt"
validation = "valid.txt"
document = "line"
[train]
max_steps = 8
batch_size = 8
micro_batch_size = 2
precision = "fp32"
log_every = 1
system_every = 0
[eval]
every = 4
[checkpoint]
every = 4
"""


def make_place(path: Path) -> Path:
    """Write recipe and data below ``path`` and return it."""
    path.mkdir()
    (path / "recipe.toml").write_text(RECIPE)
    lines = [f"line {number} of {number % 7} words that go by\n" for number in range(300)]
    (path / "train.txt").write_text("".join(lines))
    (path / "valid.txt").write_text("".join(lines[:23]))
    return path


def _rank(rank: int, world_size: int, port: int, place: str, overrides: list[str]) -> None:
    os.chdir(place)
    os.environ.update(FORGE_CACHE=f"{place}/cache", FORGE_OFFLINE="1", FORGE_RUN_ROOT="runs")
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    import llmforge
    from llmforge.data.batches import TrainBatches

    taken: list[list[int]] = []
    read = TrainBatches.batch

    def batch(self: TrainBatches, position: int, count: int) -> Any:
        taken.append([position, count])
        return read(self, position, count)

    TrainBatches.batch = batch  # type: ignore[method-assign]
    llmforge.train("recipe.toml", overrides=overrides)
    name = f"taken-{world_size}-{rank}-{len(list(Path().glob('taken-*')))}.json"
    Path(name).write_text(json.dumps(taken))


def run(place: Path, *overrides: str, ranks: int) -> None:
    """Train as ``ranks`` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (ranks, port, str(place), list(overrides))
    torch.multiprocessing.spawn(_rank, arguments, nprocs=ranks)


def sequences(place: Path) -> list[int]:
    """Return the global positions of all sequences that all ranks computed, in order."""
    found: list[int] = []
    for path in place.glob("taken-*.json"):
        for position, count in json.loads(path.read_text()):
            found += range(position, position + count)
    return sorted(found)


def rows(place: Path) -> list[dict[str, float]]:
    """Return the metrics rows of the run."""
    text = (place / "runs" / "ranks" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nothing interrupted."""
    place = make_place(tmp_path_factory.mktemp("alone") / "place")
    run(place, ranks=1)
    return place


@pytest.mark.parametrize(("first", "second"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, alone: Path, first: int, second: int
) -> None:
    place = make_place(tmp_path / "place")
    run(place, "train.stop_at=5", ranks=first)
    run(place, ranks=second)
    assert sequences(place) == sequences(alone) == list(range(64))
    expected = rows(alone)
    assert len(expected) == 8
    assert rows(place) == [pytest.approx(row, rel=1e-5) for row in expected]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path, alone: Path) -> None:
    place = make_place(tmp_path / "place")
    run(place, ranks=2)
    assert sequences(place) == list(range(64))
    assert rows(place) == [pytest.approx(row, rel=1e-5) for row in rows(alone)]
