"""Archives of checkpoints: equal contents give equal bytes, and a malicious one does nothing."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.errors import CheckpointError, StorageError
from llmforge.remote.archive import pack, unpack
from llmforge.remote.transfer import source_of

WEIGHTS = bytes(range(256)) * 400
FILES = {"model.safetensors": WEIGHTS, "tokenizer/vocab.json": b"{}", "empty": b""}
KINDS = ["tar.gz", "tar.zst"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with FILES."""
    return written(tmp_path / "checkpoint", FILES)


def written(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def entries(directory: Path) -> dict[str, FileEntry]:
    return {
        path.relative_to(directory).as_posix(): source_of(path).entry
        for path in directory.rglob("*")
        if path.is_file()
    }


def packed(directory: Path, archive: Path, kind: str = "tar.gz") -> Path:
    pack(directory, entries(directory), archive, kind=kind, progress=lambda _: None)
    return archive


def unpacked(archive: Path, files: Mapping[str, FileEntry], target: Path, kind: str) -> None:
    unpack(archive, files, target, kind=kind, progress=lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_comes_out_equal(directory: Path, tmp_path: Path, kind: str) -> None:
    archive = packed(directory, tmp_path / "a", kind)
    unpacked(archive, entries(directory), tmp_path / "out", kind)
    assert entries(tmp_path / "out") == entries(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_contents_give_equal_bytes_wherever_and_whenever(
    directory: Path, tmp_path: Path, kind: str
) -> None:
    again = written(tmp_path / "again", dict(reversed(FILES.items())))
    (again / "empty").chmod(0o600)
    first, second = packed(directory, tmp_path / "a", kind), packed(again, tmp_path / "b", kind)
    assert first.read_bytes() == second.read_bytes()


def test_other_tools_can_read_it(directory: Path, tmp_path: Path) -> None:
    with tarfile.open(packed(directory, tmp_path / "a.tar.gz")) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    assert entries(tmp_path / "out") == entries(directory)


def test_files_that_are_not_what_the_manifest_says_are_not_packed(
    directory: Path, tmp_path: Path
) -> None:
    known = entries(directory)
    for number, content in enumerate((WEIGHTS + b"x", WEIGHTS[1:], WEIGHTS[:-1] + b"x")):
        (directory / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="altered"):
            pack(directory, known, tmp_path / str(number), kind="tar.gz", progress=lambda _: None)


def test_a_name_too_long_for_an_archive_is_refused_with_a_remedy(tmp_path: Path) -> None:
    directory = written(tmp_path / "long", {"x" * 101: b""})
    with pytest.raises(StorageError, match="at most 100 bytes") as raised:
        packed(directory, tmp_path / "a")
    assert 'archive = "none"' in raised.value.remedy


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue())


def sparse_header() -> bytes:
    """A GNU sparse file of 2^40 bytes that takes one block."""
    info = tarfile.TarInfo("model.safetensors")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = (
        b"%011o\0" % (1 << 40) if 1 << 40 < 8**11 else b"\x80" + bytes(7) + b"\1\0\0\0"
    )
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return gzip.compress(bytes(header) + bytes(512) + bytes(1024))


LINK = {"linkname": "/etc/passwd"}
GOOD = member("model.safetensors", WEIGHTS)

ATTACKS: dict[str, Callable[[], bytes]] = {
    "parent": lambda: archive_of(member("../escaped", b"x")),
    "parent inside": lambda: archive_of(member("tokenizer/../../escaped", b"x")),
    "absolute": lambda: archive_of(member("/tmp/llmforge-escaped", b"x")),
    "symlink": lambda: archive_of(member("model.safetensors", type=tarfile.SYMTYPE, **LINK)),
    "symlink, then through it": lambda: archive_of(
        member("tokenizer", type=tarfile.SYMTYPE, linkname=".."),
        member("tokenizer/vocab.json", b"{}"),
    ),
    "hardlink": lambda: archive_of(member("model.safetensors", type=tarfile.LNKTYPE, **LINK)),
    "device": lambda: archive_of(member("empty", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "pipe": lambda: archive_of(member("empty", type=tarfile.FIFOTYPE)),
    "folder": lambda: archive_of(member("tokenizer", type=tarfile.DIRTYPE)),
    "extra file": lambda: archive_of(GOOD, member("extra.py", b"import os")),
    "twice": lambda: archive_of(GOOD, GOOD),
    "missing files": lambda: archive_of(GOOD),
    "too large": lambda: archive_of(member("model.safetensors", WEIGHTS + b"x")),
    "too small": lambda: archive_of(member("model.safetensors", WEIGHTS[1:])),
    "other content": lambda: archive_of(member("model.safetensors", bytes(len(WEIGHTS)))),
    "bomb in a file": lambda: archive_of(member("model.safetensors", bytes(50_000_000))),
    "long name": lambda: archive_of(member("x" * 500, b"")),
    "extended header": lambda: archive_of(
        member("empty", pax_headers={"path": "../escaped"}), form=tarfile.PAX_FORMAT
    ),
    "bomb in an extended header": lambda: archive_of(
        member("h", bytes(200_000_000), type=tarfile.XHDTYPE)
    ),
    "sparse": sparse_header,
    "negative size": lambda: gzip.compress(
        member("empty", size=-512)[0].tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    ),
    "ends early": lambda: archive_of(GOOD)[:-1000],
    "not compressed": lambda: gzip.decompress(archive_of(GOOD)),
    "no tar": lambda: gzip.compress(b"x" * 1024),
    "empty": lambda: b"",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_archive_is_refused_and_nothing_is_written_anywhere(
    directory: Path, tmp_path: Path, attack: str
) -> None:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(ATTACKS[attack]())
    place = tmp_path / "place"
    place.mkdir()
    before = entries(tmp_path)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StorageError, match=r"refused|damaged"):
        unpacked(archive, entries(directory), place / "out", "tar.gz")
    assert list(place.iterdir()) == []
    assert entries(tmp_path) == before
    assert not Path("/tmp/llmforge-escaped").exists()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 64_000  # kilobytes


def test_a_zstd_stream_that_wants_gigabytes_of_memory_is_refused(
    directory: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive.tar.zst"
    # magic, no checksum and no content size, a window of 2^41 bytes, one raw block
    archive.write_bytes(
        b"\x28\xb5\x2f\xfd\x00\xf8" + struct.pack("<I", 1 | 100 << 3)[:3] + bytes(100)
    )
    with pytest.raises(StorageError, match="damaged"):
        unpacked(archive, entries(directory), tmp_path / "out", "tar.zst")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_leads_out_of_the_target_is_no_way_out(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(archive_of(member("../escaped", b"x")))
    written(tmp_path / "like", {"escaped": b"x"})
    names = {"../escaped": entries(tmp_path / "like")["escaped"]}
    (tmp_path / "place").mkdir()
    with pytest.raises(StorageError, match="refused"):
        unpacked(archive, names, tmp_path / "place" / "out", "tar.gz")
    assert list((tmp_path / "place").iterdir()) == []
    assert not (tmp_path / "escaped").exists()
