"""The host buffer: layout, snapshot, and files that the safetensors library reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llmforge.checkpoint.host_tensors import HostBuffer, split
from llmforge.errors import CheckpointError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(dtype): torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype in DTYPES
    }
    tensors["scalar"] = torch.tensor(3.5)
    tensors["scalar byte"] = torch.tensor(7, dtype=torch.uint8)
    tensors["empty"] = torch.empty(0, 4)
    tensors["transposed"] = torch.arange(12.0).view(3, 4).t()
    tensors['näme "quoted"'] = torch.randn(257, generator=generator)
    return tensors


def write(tensors: dict[str, torch.Tensor], path: Path) -> HostBuffer:
    buffer = HostBuffer()
    buffer.copy_from(tensors)
    buffer.write(path)
    return buffer


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert tensor.shape == right[name].shape, name
        assert torch.equal(tensor, right[name]), name


def test_every_type_and_shape_comes_back_through_the_safetensors_library(tmp_path: Path) -> None:
    write(state(), tmp_path / "x.safetensors")
    assert_same(load_file(tmp_path / "x.safetensors"), state())


def test_values_that_are_not_finite_and_negative_zero_keep_their_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000], dtype=torch.int32)
    write({"x": bits.view(torch.float32)}, tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"].view(torch.int32), bits)


def test_no_tensors_make_a_readable_file(tmp_path: Path) -> None:
    write({}, tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors") == {}


def test_entry_has_the_size_and_digest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    buffer = HostBuffer()
    buffer.copy_from(state())
    entry = buffer.write(path)
    assert entry.size == path.stat().st_size == buffer.nbytes
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_content_larger_than_a_chunk_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.checkpoint.host_tensors.CHUNK", 100)
    write(state(), tmp_path / "x.safetensors")
    assert_same(load_file(tmp_path / "x.safetensors"), state())


def test_the_copy_does_not_follow_the_live_tensors(tmp_path: Path) -> None:
    tensors = state()
    buffer = HostBuffer()
    buffer.copy_from(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    buffer.write(tmp_path / "x.safetensors")
    assert_same(load_file(tmp_path / "x.safetensors"), state())


def test_parameters_that_require_gradients_are_copied(tmp_path: Path) -> None:
    write({"w": torch.nn.Parameter(torch.ones(3))}, tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["w"], torch.ones(3))


def test_equal_tensors_give_equal_files_whatever_their_order(tmp_path: Path) -> None:
    write(state(), tmp_path / "a")
    write(dict(reversed(state().items())), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_memory_is_kept_for_the_same_layout_and_for_a_smaller_one(tmp_path: Path) -> None:
    buffer = HostBuffer()
    buffer.prepare({"a": torch.zeros(100)})
    block = buffer._flat.data_ptr()
    buffer.copy_from({"a": torch.ones(100)})
    buffer.copy_from({"a": torch.ones(10), "b": torch.ones(3, dtype=torch.int64)})
    assert buffer._flat.data_ptr() == block
    buffer.write(tmp_path / "x")
    assert_same(
        load_file(tmp_path / "x"), {"a": torch.ones(10), "b": torch.ones(3, dtype=torch.int64)}
    )


def test_a_layout_that_grows_or_changes_type_is_laid_out_again(tmp_path: Path) -> None:
    buffer = HostBuffer()
    buffer.copy_from({"a": torch.zeros(4)})
    for number, grown in enumerate(
        [{"a": torch.ones(9)}, {"a": torch.ones(9, dtype=torch.int32)}, {"b": torch.ones(9)}]
    ):
        buffer.copy_from(grown)
        buffer.write(tmp_path / str(number))
        assert_same(load_file(tmp_path / str(number)), grown)


def test_a_type_the_format_lacks_is_an_error_that_names_the_tensor() -> None:
    with pytest.raises(CheckpointError, match=r"'w'.*complex64"):
        HostBuffer().copy_from({"w": torch.zeros(2, dtype=torch.complex64)})


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(state(), path)
    data = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert data % 8 == 0
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_are_copied_through_pinned_memory(tmp_path: Path) -> None:
    buffer = HostBuffer()
    tensors = {name: tensor.cuda() for name, tensor in state().items()}
    buffer.copy_from(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    buffer.write(tmp_path / "x.safetensors")
    assert buffer._flat.is_pinned()
    assert_same(load_file(tmp_path / "x.safetensors"), state())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_blocks_are_split_into_equal_shares_without_gap_or_overlap(count: int) -> None:
    blocks = [(1000, 5000, 10), (2000, 6000, 0), (3000, 7000, 101), (4000, 8000, 1)]
    parts = split(blocks, count)
    assert len(parts) == count
    shares = [sum(size for _, _, size in part) for part in parts]
    assert max(shares) - min(shares) <= count

    def byte_pairs(items: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        return [(target + i, source + i) for target, source, size in items for i in range(size)]

    assert [pair for part in parts for pair in byte_pairs(part)] == byte_pairs(blocks)


def test_a_large_state_is_copied_whole_by_several_threads(tmp_path: Path) -> None:
    tensors = {str(i): torch.randn(300_001, generator=torch.manual_seed(i)) for i in range(5)}
    write(tensors, tmp_path / "x.safetensors")
    assert_same(load_file(tmp_path / "x.safetensors"), tensors)
