"""A checkpoint that several ranks write: any split, any number of readers, one outcome."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import Ranks, crews, lasting_crews, outcomes, request
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmforge.checkpoint import (
    CheckpointWriter,
    Retention,
    SaveRequest,
    SelfDescription,
    list_checkpoints,
    load_tensors,
    newest_valid,
    read_trainer,
    verify,
)
from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.checkpoint.host_tensors import DTYPES, HostBuffer
from llmforge.errors import CheckpointError
from llmforge.interfaces import Slice


@dataclass(frozen=True)
class Split:
    """Tensors, and for each that is split the elements at which the next rank's part begins."""

    tensors: dict[str, Tensor]
    borders: dict[str, list[int]]
    world_size: int

    def of(self, rank: int) -> tuple[dict[str, Tensor], dict[str, Slice]]:
        """Return the tensors of ``rank`` and its slices; what is not split, every rank has."""
        tensors, slices = {}, {}
        for name, whole in self.tensors.items():
            if name not in self.borders:
                tensors[name] = whole
                continue
            begin, end = self.borders[name][rank], self.borders[name][rank + 1]
            tensors[name] = whole.reshape(-1)[begin:end]
            slices[name] = Slice(tuple(whole.shape), begin)
        return tensors, slices

    def requests(self, step: int) -> list[SaveRequest]:
        """Return what the ranks save; the optimizer has the same tensors under other names."""
        found = []
        for rank in range(self.world_size):
            tensors, slices = self.of(rank)
            moments = {f"{name}/exp_avg": tensor for name, tensor in tensors.items()}
            of_moments = {f"{name}/exp_avg": part for name, part in slices.items()}
            found.append(request(step, tensors, moments, slices=slices | of_moments))
        return found


def random_tensor(dtype: torch.dtype, shape: Sequence[int], seed: int) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))
    return bits.to(dtype) if dtype == torch.bool else (bits * 7 - 3 + seed % 100).to(dtype)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Draw tensors of any shape and type, and any contiguous split over up to four ranks."""
    world_size = draw(st.integers(1, 4))
    tensors: dict[str, Tensor] = {}
    borders: dict[str, list[int]] = {}
    for number in range(draw(st.integers(0, 5))):
        name = f"layer.{number}.weight"
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        dtype = draw(st.sampled_from(sorted(DTYPES, key=str)))
        tensors[name] = random_tensor(dtype, shape, draw(st.integers(0, 1000)))
        if draw(st.booleans()):
            count = math.prod(shape)
            inner = [draw(st.integers(0, count)) for _ in range(world_size - 1)]
            borders[name] = [0, *sorted(inner), count]
    return Split(tensors, borders, world_size)


def same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found, expected)


@settings(deadline=None, max_examples=40)
@given(split=splits(), readers=st.integers(1, 4))
def test_any_split_is_read_back_by_any_number_of_ranks(
    tmp_path_factory: pytest.TempPathFactory, split: Split, readers: int
) -> None:
    directory = tmp_path_factory.mktemp("checkpoints")
    ranks = Ranks(directory, lasting_crews(split.world_size))
    assert ranks.submit(split.requests(7)) == [True] * split.world_size
    ranks.close()
    [checkpoint] = list_checkpoints(directory)
    assert verify(checkpoint.path) == []
    assert checkpoint.manifest.world_size == split.world_size
    assert ranks.told == [(0, 7)]
    model = load_tensors(checkpoint.path, "model")
    optimizer = load_tensors(checkpoint.path, "optimizer")
    assert set(model) == set(split.tensors)
    for name, whole in split.tensors.items():
        assert same(model[name], whole)
        assert same(optimizer[f"{name}/exp_avg"], whole)
        share = -(-whole.numel() // readers)
        for begin in range(0, whole.numel(), share or 1):
            count = min(share, whole.numel() - begin)
            flat = whole.reshape(-1)[begin : begin + count]
            assert same(model.slice(name, begin, count), flat)
    assert {path.name for path in directory.iterdir()} == {"step-00000007", "last"}


WEIGHTS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.arange(3.0)}


def halves(world_size: int = 2) -> Split:
    """``w`` split in two, ``b`` whole."""
    return Split(WEIGHTS, {"w": [0, 5, *([12] * (world_size - 1))]}, world_size)


def test_the_files_are_named_by_rank_and_number_of_ranks(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.submit(halves().requests(1))
    ranks.close()
    [checkpoint] = list_checkpoints(tmp_path)
    assert set(checkpoint.manifest.files) == {
        "recipe.toml",
        "trainer.json",
        "metadata.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "optimizer-00001-of-00002.safetensors",
        "optimizer-00002-of-00002.safetensors",
        "optimizer.safetensors.index.json",
    }


def alone(directory: Path, saved: SaveRequest) -> Path:
    """Save by a single process and return the checkpoint."""
    with CheckpointWriter(
        directory,
        description=SelfDescription(recipe="[run]\n", recipe_hash="0123"),
        retention=Retention(),
        on_saved=lambda _: None,
    ) as writer:
        writer.submit(saved)
    return list_checkpoints(directory)[-1].path


@pytest.mark.parametrize("world_size", [2, 3])
def test_whole_tensors_of_several_ranks_are_the_files_of_a_single_process(
    tmp_path: Path, world_size: int
) -> None:
    split = Split(WEIGHTS, {}, world_size)
    ranks = Ranks(tmp_path / "many", lasting_crews(world_size))
    ranks.submit(split.requests(1))
    ranks.close()
    many = list_checkpoints(tmp_path / "many")[0].path
    one = alone(tmp_path / "one", split.requests(1)[0])
    assert {path.name for path in many.iterdir()} == {path.name for path in one.iterdir()}
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (many / name).read_bytes() == (one / name).read_bytes()


def test_slices_that_are_all_of_a_tensor_are_written_whole(tmp_path: Path) -> None:
    whole = alone(tmp_path / "whole", Split(WEIGHTS, {}, 1).requests(1)[0])
    sliced = alone(tmp_path / "sliced", Split(WEIGHTS, {"w": [0, 12]}, 1).requests(1)[0])
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (sliced / name).read_bytes() == (whole / name).read_bytes()


def test_a_part_that_is_sliced_and_one_that_is_not_go_together(tmp_path: Path) -> None:
    """As with ZeRO-1: every rank has the weights, and its share of the optimizer's state."""
    model = {"w": WEIGHTS["w"]}
    requests = [
        request(
            1,
            model,
            {"w/exp_avg": WEIGHTS["w"].reshape(-1)[6 * rank : 6 * rank + 6]},
            slices={"w/exp_avg": Slice((3, 4), 6 * rank)},
        )
        for rank in range(2)
    ]
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.submit(requests)
    ranks.close()
    path = list_checkpoints(tmp_path)[0].path
    assert (path / "model.safetensors").is_file()
    assert (path / "optimizer.safetensors.index.json").is_file()
    assert same(load_tensors(path, "optimizer")["w/exp_avg"], WEIGHTS["w"])


def test_changes_after_submit_do_not_reach_the_file(tmp_path: Path) -> None:
    requests = halves().requests(1)
    live = [{name: tensor.clone() for name, tensor in item.model.items()} for item in requests]
    changed = [
        request(1, mine, slices={"w": item.slices["w"]})
        for mine, item in zip(live, requests, strict=True)
    ]
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.submit(changed)
    for mine in live:
        for tensor in mine.values():
            tensor.zero_()
    ranks.close()
    assert same(load_tensors(list_checkpoints(tmp_path)[0].path, "model")["w"], WEIGHTS["w"])


@pytest.mark.parametrize(
    ("tensor", "part", "message"),
    [
        (torch.zeros(7), Slice((3, 4), 6), "element 5 of tensor 'w' is in no file"),
        (torch.zeros(7), Slice((3, 4), 3), "both have elements 3 to 4 of tensor 'w'"),
        (torch.zeros(9), Slice((3, 4), 5), "00002.safetensors goes beyond the end of tensor 'w'"),
        (None, None, "elements 5 to 11 of tensor 'w' are in no file"),
        (
            torch.zeros(7, dtype=torch.int64),
            Slice((3, 4), 5),
            "tensor 'w' is F32 [3, 4] on rank 0 and I64 [3, 4] on rank 1",
        ),
        (
            torch.zeros(7),
            Slice((4, 3), 5),
            "tensor 'w' is F32 [3, 4] on rank 0 and F32 [4, 3] on rank 1",
        ),
    ],
)
def test_what_the_ranks_do_not_hold_once_is_told_before_anything_is_written(
    tmp_path: Path, tensor: Tensor | None, part: Slice | None, message: str
) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.submit(halves().requests(1))
    ranks.flush()
    first = request(2, {"w": torch.zeros(5)}, slices={"w": Slice((3, 4), 0)})
    second = request(2, {}) if tensor is None else request(2, {"w": tensor}, slices={"w": part})
    ranks.submit([first, second])
    errors = ranks.flush()
    assert all(isinstance(error, CheckpointError) for error in errors)
    assert all(message in str(error) for error in errors), errors
    assert [item.step for item in list_checkpoints(tmp_path)] == [1]
    ranks.submit(halves().requests(3))
    ranks.close()
    assert [item.step for item in list_checkpoints(tmp_path)] == [1, 3]


class BadDisk:
    """A fault put in: the disk of the ranks whose buffers hold ``count`` elements takes no file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.broken = True
        real = HostBuffer.write

        def write(buffer: HostBuffer, path: Path) -> FileEntry:
            if self.broken and sum(place.count for place in buffer.places) == count:
                raise OSError(28, "No space left on device")
            return real(buffer, path)

        monkeypatch.setattr(HostBuffer, "write", write)


@pytest.mark.parametrize(("rank", "count"), [(0, 8), (1, 7)])
def test_a_full_disk_of_one_rank_is_told_by_all_at_the_same_call_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, count: int
) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.submit(halves().requests(1))
    ranks.flush()
    disk = BadDisk(monkeypatch, count)
    ranks.submit(halves().requests(2))
    while True in (answers := ranks.submit(halves().requests(3))):
        pass  # its files are being written still
    for error in answers:
        assert isinstance(error, CheckpointError), answers
        assert f"rank {rank}: no room for the checkpoint of step" in str(error)
        assert "free some space" in str(error)
    ranks.flush()
    disk.broken = False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000001"]
    assert ranks.submit(halves().requests(4)) == [True, True]
    ranks.close()
    assert [item.step for item in list_checkpoints(tmp_path)] == [1, 4]
    assert read_trainer(tmp_path / "step-00000004") == {"step": 4}


def test_an_error_of_the_leaders_listener_is_told_by_all(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("journal closed")

    ranks = Ranks(tmp_path, lasting_crews(2), on_saved=fail)
    ranks.submit(halves().requests(1))
    assert all(
        "rank 0: " in str(error) and "journal closed" in str(error) for error in ranks.flush()
    )
    ranks.close()


def test_where_one_rank_has_no_room_all_skip_or_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2))
    gate = threading.Event()
    real = HostBuffer.write

    def slow(buffer: HostBuffer, path: Path) -> FileEntry:
        """A fault put in: no file is written before the gate opens."""
        assert gate.wait(20)
        return real(buffer, path)

    monkeypatch.setattr(HostBuffer, "write", slow)
    ranks.submit(halves().requests(1))
    ranks.submit(halves().requests(2))
    periodic = [
        request(3, item.model, slices={"w": item.slices["w"]}, required=False)
        for item in halves().requests(3)
    ]
    assert ranks.submit(periodic) == [False, False]
    opener = threading.Timer(0.2, gate.set)
    opener.start()
    assert ranks.submit(halves().requests(4)) == [True, True]
    ranks.close()
    assert [step for _, step in ranks.told] == [1, 2, 4]


def test_a_rank_that_is_busy_alone_makes_all_skip(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2))
    ranks.writers[1]._readiness = lambda: 1  # type: ignore[assignment, return-value]
    items = [
        request(3, item.model, slices={"w": item.slices["w"]}, required=False)
        for item in halves().requests(3)
    ]
    assert ranks.submit(items) == [False, False]
    del ranks.writers[1]._readiness  # type: ignore[misc]
    assert ranks.submit(items) == [True, True]
    ranks.close()


def test_only_the_leader_keeps_whole_tensors_in_memory(tmp_path: Path) -> None:
    split = Split({"big": torch.zeros(100_000), "w": WEIGHTS["w"]}, {"w": [0, 5, 12]}, 2)
    ranks = Ranks(tmp_path, lasting_crews(2))
    for writer, item in zip(ranks.writers, split.requests(1), strict=True):
        writer.prepare(item.model, item.optimizer, item.slices)
    leader, follower = (writer._idle[0].nbytes for writer in ranks.writers)
    assert leader > 800_000
    assert follower < 2_000
    ranks.close()


def test_retention_deletes_all_files_of_the_old_ones(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, lasting_crews(2), retention=Retention(keep_last=2))
    for step in range(1, 6):
        ranks.submit(halves().requests(step))
    ranks.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last",
        "step-00000004",
        "step-00000005",
    ]


def test_a_lost_rank_leaves_the_last_checkpoint_and_an_error_with_its_number(
    tmp_path: Path,
) -> None:
    """A fault put in: rank 1 says nothing any more, as one that hangs."""
    members = crews(3, timeout=1.0)
    ranks = Ranks(tmp_path, members)
    ranks.submit(halves(3).requests(1))
    ranks.flush()
    for writer in ranks.writers:
        writer._agree = int  # as it was agreed while rank 1 still spoke
    began = time.monotonic()
    for rank in (0, 2):
        ranks.writers[rank].submit(halves(3).requests(2)[rank])
    errors = []
    for rank in (0, 2):
        with pytest.raises(CheckpointError) as caught:
            ranks.writers[rank].flush(20)
        errors.append(str(caught.value))
    assert time.monotonic() - began < 10
    assert "rank 1 is lost" in errors[0]
    assert "the last complete one stays" in errors[0]
    assert "rank 0, which leads" in errors[1]
    restored = newest_valid(tmp_path)
    assert restored is not None
    assert restored.checkpoint.step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000001"]


def test_ranks_that_do_not_share_the_directory_do_not_begin(tmp_path: Path) -> None:
    places = iter(["a", "b"])
    lock = threading.Lock()

    def place() -> Path:
        with lock:
            return tmp_path / next(places)

    def begin(crew: Any) -> None:
        CheckpointWriter(
            place(),
            description=SelfDescription(recipe="", recipe_hash=""),
            retention=Retention(),
            on_saved=lambda _: None,
            crew=crew,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmforge.checkpoint.shared_directory.check_shared.__kwdefaults__", {"seconds": 0.2}
        )
        errors = outcomes(begin, lasting_crews(2))
    assert all("is not the checkpoints directory" in str(error) for error in errors)
