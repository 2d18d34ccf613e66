"""Files of token ids: every common layout is mapped, everything else refused by name."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmforge.errors import DataError
from llmforge_plugins.data._shards import open_shard

IDS = np.arange(1000, dtype=np.uint16) * 50


def opened(path: Path, *, dtype: str = "uint16", key: str | None = None) -> Any:
    return open_shard(
        path, name=path.name, sha256="0" * 64, dtype=dtype, key=key, cache=path.parent / "cache"
    )


def is_mapped(ids: np.ndarray) -> bool:
    """Whether the numbers are in a file and not in memory of their own."""
    while isinstance(ids, np.ndarray):
        if isinstance(ids, np.memmap):
            return True
        ids = ids.base
    return False


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4", "<i8", ">u2", "u1"])
def test_npy_files_are_mapped_whatever_whole_numbers_they_hold(tmp_path: Path, dtype: str) -> None:
    expected = (IDS % 250).astype(dtype)
    np.save(tmp_path / "a.npy", expected)
    ids = opened(tmp_path / "a.npy")
    assert ids.tolist() == expected.tolist()
    assert is_mapped(ids)


def test_rows_of_a_table_follow_each_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IDS.reshape(10, 100))
    assert opened(tmp_path / "a.npy").tolist() == IDS.tolist()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_raw_files_are_read_as_the_type_given(tmp_path: Path, dtype: str) -> None:
    IDS.astype(dtype).tofile(tmp_path / "train.bin")
    ids = opened(tmp_path / "train.bin", dtype=dtype)
    assert (ids.tolist(), is_mapped(ids)) == (IDS.tolist(), True)


def with_header(path: Path, ids: np.ndarray, *, mark: int, version: int, count: int) -> Path:
    """Write a file as llm.c and modded-nanogpt do: 256 int32 numbers, then the ids."""
    header = np.zeros(256, np.int32)
    header[:3] = mark, version, count
    path.write_bytes(header.tobytes() + ids.tobytes())
    return path


@pytest.mark.parametrize(
    ("mark", "version", "dtype"), [(20240520, 1, np.uint16), (20240801, 7, np.uint32)]
)
def test_a_header_of_llm_c_says_the_type(
    tmp_path: Path, mark: int, version: int, dtype: type
) -> None:
    path = with_header(
        tmp_path / "a.bin", IDS.astype(dtype), mark=mark, version=version, count=len(IDS)
    )
    ids = opened(path, dtype="uint32")
    assert (ids.tolist(), ids.dtype, is_mapped(ids)) == (IDS.tolist(), dtype, True)


def test_a_header_that_lies_or_is_unknown_is_refused(tmp_path: Path) -> None:
    short = with_header(tmp_path / "a.bin", IDS[:-1], mark=20240520, version=1, count=1000)
    with pytest.raises(DataError, match=r"a\.bin says that it has 1000 tokens.*hold 999"):
        opened(short)
    newer = with_header(tmp_path / "b.bin", IDS, mark=20240520, version=2, count=1000)
    with pytest.raises(DataError, match=r"b\.bin has the mark 20240520 with the unknown version 2"):
        opened(newer)


def test_a_plain_npz_is_mapped_where_it_lies(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3), tokens=IDS)
    ids = opened(tmp_path / "a.npz")
    assert (ids.tolist(), is_mapped(ids)) == (IDS.tolist(), True)
    assert not (tmp_path / "cache").exists()


def test_a_compressed_npz_is_unpacked_once(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", IDS)
    ids = opened(tmp_path / "a.npz")
    assert (ids.tolist(), is_mapped(ids)) == (IDS.tolist(), True)
    (unpacked,) = (tmp_path / "cache" / "datasets" / "unpacked").iterdir()
    before = unpacked.stat().st_mtime_ns
    assert opened(tmp_path / "a.npz").tolist() == IDS.tolist()
    assert unpacked.stat().st_mtime_ns == before
    unpacked.write_bytes(b"cut")
    assert opened(tmp_path / "a.npz").tolist() == IDS.tolist()


def test_one_of_several_arrays_is_chosen_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=IDS, second=IDS[:10])
    assert len(opened(tmp_path / "a.npz", key="second")) == 10
    with pytest.raises(DataError, match=r"arrays first, second\n.*data\.tokens\.key"):
        opened(tmp_path / "a.npz")
    with pytest.raises(DataError, match="and no 'third'"):
        opened(tmp_path / "a.npz", key="third")
    np.savez(tmp_path / "b.npz", attention_mask=IDS, input_ids=IDS[:10])
    assert len(opened(tmp_path / "b.npz")) == 10


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "b.npz", tokens=trap)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(DataError, match=name):
            opened(tmp_path / name)
    assert not sprung.exists()


def floats(path: Path) -> None:
    np.save(path, IDS.astype(np.float32))


def fortran(path: Path) -> None:
    np.save(path, np.asfortranarray(IDS.reshape(10, 100)))


def truncated(path: Path) -> None:
    np.save(path, IDS)
    path.write_bytes(path.read_bytes()[:-7])


def no_numpy(path: Path) -> None:
    path.write_text("tokens")


@pytest.mark.parametrize("write", [floats, fortran, truncated, no_numpy])
def test_a_file_that_is_no_shard_is_refused_by_name(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "bad.npy")
    with pytest.raises(DataError, match=r"bad\.npy"):
        opened(tmp_path / "bad.npy")


def test_other_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"odd\.bin has 3 bytes, not a whole number of uint16"):
        opened(tmp_path / "odd.bin")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(DataError, match=r"x\.txt is not a shard.*\.npy, \.npz, \.bin"):
        opened(tmp_path / "x.txt")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"x\.npz cannot be read"):
        opened(tmp_path / "x.npz")


def test_a_damaged_archive_leaves_nothing_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, tokens=np.random.default_rng(1).integers(0, 60000, 5000, np.uint16))
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset
    content = bytearray(path.read_bytes())
    content[start + 2000 : start + 2010] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        opened(path)
    assert list((tmp_path / "cache" / "datasets" / "unpacked").iterdir()) == []


def test_an_empty_shard_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    np.save(tmp_path / "b.npy", IDS[:0])
    assert [len(opened(tmp_path / name)) for name in ("a.bin", "b.npy")] == [0, 0]
