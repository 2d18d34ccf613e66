"""Reading tensors: from one file or from slices, whole or in part, and what may be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_drafts import rewrite_manifest
from checkpoint_slices import cut, sliced_checkpoint, write_sliced
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from llmforge.checkpoint import StoredTensors, load_tensors, verify
from llmforge.errors import CheckpointError

TENSORS = {
    "wte": torch.arange(60, dtype=torch.float32).reshape(12, 5),
    "half": torch.randn(7, 3).to(torch.bfloat16),
    "scale": torch.tensor(2.5, dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 4),
}


def same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.fixture(params=[1, 2, 3])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> StoredTensors:
    """The tensors in one file, or in the slices of several ranks."""
    if request.param == 1:
        save_file(TENSORS, tmp_path / "model.safetensors")
        return StoredTensors.of_file(tmp_path / "model.safetensors")
    return StoredTensors.of_index(write_sliced(tmp_path, cut(TENSORS, request.param)))


def test_every_tensor_comes_back_whole(stored: StoredTensors) -> None:
    assert set(stored) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert same(stored[name], expected), name
        assert stored.shape(name) == tuple(expected.shape)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_range_comes_back_flat(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("slices")
    stored = StoredTensors.of_index(write_sliced(folder, cut(TENSORS, 3)))
    name = data.draw(st.sampled_from(sorted(TENSORS)))
    flat = TENSORS[name].reshape(-1)
    begin = data.draw(st.integers(0, flat.numel()))
    count = data.draw(st.integers(0, flat.numel() - begin))
    assert same(stored.slice(name, begin, count), flat[begin : begin + count])


@pytest.mark.parametrize(("begin", "count"), [(-1, 2), (0, 61), (60, 1), (3, -1)])
def test_a_range_that_is_not_there_is_refused(
    stored: StoredTensors, begin: int, count: int
) -> None:
    with pytest.raises(CheckpointError, match=r"'wte' in .* has 60 elements"):
        stored.slice("wte", begin, count)


def test_a_name_that_is_not_there_is_a_key_error(stored: StoredTensors) -> None:
    with pytest.raises(KeyError):
        stored["wpe"]
    assert "wpe" not in stored


def test_what_is_written_into_a_tensor_does_not_reach_the_file(stored: StoredTensors) -> None:
    stored["wte"].zero_()
    stored.slice("wte", 2, 9).zero_()
    assert same(stored["wte"], TENSORS["wte"])


def damage(index: Path, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(index.read_text())
    change(body["tensors"])
    index.write_text(json.dumps(body))


def drop_one(tensors: dict[str, Any]) -> None:
    del tensors["wte"]["slices"][1]


def name_one_twice(tensors: dict[str, Any]) -> None:
    tensors["wte"]["slices"].append(tensors["wte"]["slices"][0])


def shrink_the_whole(tensors: dict[str, Any]) -> None:
    tensors["wte"]["shape"] = [11, 5]


def shift_one(tensors: dict[str, Any]) -> None:
    tensors["wte"]["slices"][1]["begin"] += 1


def shorten_one(tensors: dict[str, Any]) -> None:
    tensors["wte"]["slices"][2]["count"] -= 1
    tensors["wte"]["shape"] = [59]


def rename(tensors: dict[str, Any]) -> None:
    tensors["wpe"] = tensors.pop("wte")


def retype(tensors: dict[str, Any]) -> None:
    tensors["wte"]["dtype"] = "I32"


def leave_the_folder(tensors: dict[str, Any]) -> None:
    tensors["wte"]["slices"][0]["file"] = "../model.safetensors"


def be_negative(tensors: dict[str, Any]) -> None:
    tensors["wte"]["slices"][0]["begin"] = -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_one, r"index\.json: elements 20 to 39 of tensor 'wte' are in no file"),
        (name_one_twice, r"model-00001-of-.* both have elements 0 to 19 of tensor 'wte'"),
        (shrink_the_whole, r"model-00003-of-00003\.safetensors goes beyond the end of.*'wte'"),
        (shift_one, r"element 20 of tensor 'wte' is in no file"),
        (shorten_one, r"model-00003-of-.* holds 20 elements of tensor 'wte' instead of 19"),
        (rename, r"model-00001-of-.* does not hold its piece of tensor 'wpe'"),
        (retype, r"model-00001-of-.* holds tensor 'wte' as F32, not as I32"),
        (leave_the_folder, r"'wte' is recorded outside the checkpoint"),
        (be_negative, r"'wte' has a shape or place that is not a whole number"),
    ],
)
def test_pieces_that_make_no_whole_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    index = write_sliced(tmp_path, cut(TENSORS, 3))
    damage(index, change)
    with pytest.raises(CheckpointError, match=message):
        StoredTensors.of_index(index)


def test_a_missing_slice_file_is_named(tmp_path: Path) -> None:
    index = write_sliced(tmp_path, cut(TENSORS, 3))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-.*No such file"):
        StoredTensors.of_index(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1, "tensors": 3}'])
def test_what_is_no_index_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json cannot be read"):
        StoredTensors.of_index(tmp_path / "model.safetensors.index.json")


def test_an_index_of_a_later_format_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format_version": 2, "news": 1}')
    with pytest.raises(CheckpointError, match=r"format_version 2.*reads up to 1") as caught:
        StoredTensors.of_index(tmp_path / "x.json")
    assert "install the llmforge that wrote it" in str(caught.value)


def test_a_checkpoint_in_slices_is_loaded_like_one_in_one_file(tmp_path: Path) -> None:
    path = sliced_checkpoint(tmp_path, cut(TENSORS, 2))
    assert verify(path) == []
    tensors = load_tensors(path, "model")
    assert all(same(tensors[name], expected) for name, expected in TENSORS.items())


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "model-00002-of-00002.safetensors"]
)
def test_an_altered_slice_or_index_is_not_loaded(tmp_path: Path, name: str) -> None:
    path = sliced_checkpoint(tmp_path, cut(TENSORS, 2))
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises(CheckpointError, match=f"{name} was altered"):
        load_tensors(path, "model")


def test_a_sealed_index_that_names_foreign_files_is_found_by_verify(tmp_path: Path) -> None:
    path = sliced_checkpoint(tmp_path, cut(TENSORS, 2))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["model-00002-of-00002.safetensors"]
    rewrite_manifest(path, files=manifest["files"])
    expected = "model.safetensors.index.json names model-00002-of-00002.safetensors"
    assert expected in verify(path)[0]


def test_reading_one_tensor_after_the_other_holds_one_at_a_time(tmp_path: Path) -> None:
    count, size = 12, 16 << 20
    tensors = {f"t{number}": torch.zeros(size // 4) for number in range(count)}
    write_sliced(tmp_path, cut(tensors, 2))
    script = (
        "import resource, pathlib, torch\n"
        "from llmforge.checkpoint import StoredTensors\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'model.safetensors.index.json'\n"
        "stored = StoredTensors.of_index(path)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(float(tensor.sum()) for tensor in stored.values()) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert int(done.stdout) * 1024 < 4 * size
