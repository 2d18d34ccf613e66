"""Text is read as what it says: byte order marks, compression, and documents by a delimiter."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zstandard

from llmforge.errors import DataError
from llmforge.testing import run_context
from llmforge_plugins.data._documents import documents
from llmforge_plugins.data._shards import open_shard
from llmforge_plugins.data._text import TextData
from llmforge_plugins.data._text_files import read_lines, scan_text
from llmforge_plugins.data.text import Text

TEXT = "Once, naïve 漢字\r\nwere\n\nread. \ufeffNot a mark here.\n" * 500 + "No end"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_a_byte_order_mark_tells_the_encoding_and_is_no_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    raw = TEXT.encode(encoding)
    if encoding.endswith(("-le", "-be")):
        raw = "\ufeff".encode(encoding) + raw
    path.write_bytes(raw)
    for said in ("utf-8", "utf-16-le", "utf-32-be"):
        assert "".join(read_lines(path, said)) == TEXT
        assert scan_text(path, said)[1] == len(TEXT)


def test_a_mark_makes_no_other_text(tmp_path: Path) -> None:
    plain, marked, wide = (tmp_path / name for name in ("plain", "marked", "wide"))
    plain.write_bytes(TEXT.encode())
    marked.write_bytes(TEXT.encode("utf-8-sig"))
    wide.write_bytes(TEXT.encode("utf-16"))
    assert scan_text(marked, "utf-8") == scan_text(plain, "utf-8")
    assert scan_text(wide, "utf-8")[0] != scan_text(plain, "utf-8")[0]


def test_what_looks_like_a_mark_in_latin_1_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfeabc")
    assert list(read_lines(path, "latin-1")) == ["ÿþabc"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xef\xbb\xbf", b"a", b"\xff\xfe", b"BZh is a text"]
)
def test_short_files_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    text = "".join(read_lines(path))
    assert text == content.removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").decode()
    assert scan_text(path, "utf-8")[1] == len(text)


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("named", [True, False])
def test_compressed_text_is_read_as_the_text_in_it(
    tmp_path: Path, ending: str, named: bool
) -> None:
    plain, packed = tmp_path / "plain.txt", tmp_path / (f"a.txt.{ending}" if named else "a.txt")
    plain.write_bytes(TEXT.encode())
    # Two streams one after the other, as `cat a.gz b.gz` makes them.
    half = len(TEXT) // 2
    packed.write_bytes(
        b"".join(PACKERS[ending](part.encode()) for part in (TEXT[:half], TEXT[half:]))
    )
    assert list(read_lines(packed)) == list(read_lines(plain))
    assert scan_text(packed, "utf-8") == scan_text(plain, "utf-8")


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_file_that_is_cut_short_or_damaged_says_so(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a.txt.{ending}"
    packed = PACKERS[ending](np.random.default_rng(1).bytes(40_000).hex().encode())
    path.write_bytes(packed[:-100])
    with pytest.raises(DataError, match="is cut short"):
        list(read_lines(path))
    middle = len(packed) // 2
    path.write_bytes(packed[:middle] + b"\xa5" * 64 + packed[middle + 64 :])
    with pytest.raises(DataError, match=r"is damaged|is cut short|is not utf-8"):
        list(read_lines(path))


def test_lines_across_the_blocks_of_a_file_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = ["é" * 700_000 + "\n", "short\n", "ü" * 1_500_001]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert list(read_lines(path)) == lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n<|end|>\ntwo\nlines\n<|end|>\n", ["one\n", "two\nlines\n"]),
        ("one<|end|>two<|end|><|end|>three", ["one", "two", "three"]),
        ("one\r\n<|end|>\r\ntwo\r\n", ["one\r\n", "two\r\n"]),
        ("<|end|>\n\none", ["\none"]),
        ("no delimiter, <|en", ["no delimiter, <|en"]),
        ("", []),
    ],
)
def test_documents_end_at_a_delimiter(text: str, expected: list[str]) -> None:
    assert list(documents(text.splitlines(keepends=True), "<|end|>")) == expected
    assert list(documents(list(text), "<|end|>")) == expected  # however it comes in pieces


def test_a_delimiter_may_span_lines() -> None:
    lines = ["a\n", "\n", "\n", "b\n", "\n", "c"]
    assert list(documents(lines, "\n\n\n")) == ["a", "b\n\nc"]


def test_validation_is_a_share_of_the_documents_without_their_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x\n<|a long delimiter|>\n" * 1000, encoding="utf-8")
    data = text_data(path, document="<|a long delimiter|>")
    counts = {split: len(list(data.iter_text(split))) for split in data.splits}
    assert counts == {"train": 950, "validation": 50}


@pytest.mark.parametrize("word", ["lines", "paragraph", "Line", ""])
def test_a_misspelt_kind_of_document_is_no_delimiter(word: str) -> None:
    with pytest.raises(ValueError, match="document"):
        Text.Options(train="a.txt", document=word)


def test_a_folder_has_its_compressed_texts_too(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("plain\n", encoding="utf-8")
    for ending, pack in PACKERS.items():
        (folder / f"b.txt.{ending}").write_bytes(pack(f"{ending}\n".encode()))
    (folder / "c.gz").write_bytes(gzip.compress(b"not asked for\n"))
    for place in (str(folder), f"file://{folder}/"):
        options = Text.Options(train=place, validation=str(folder / "a.txt"))
        data = Text(options).forge_build_data(run=run_context(tmp_path / "run"))
        assert {"bz2\n", "gz\n", "xz\n", "zst\n"} <= set(data.iter_text("train"))
        assert "not asked for\n" not in data.iter_text("train")


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("kind", ["bin", "npy"])
def test_compressed_shards_are_unpacked_once(tmp_path: Path, ending: str, kind: str) -> None:
    plain, packed = tmp_path / f"s.{kind}", tmp_path / f"s.{kind}.{ending}"
    ids = np.arange(5000, dtype="<u2")
    ids.tofile(plain) if kind == "bin" else np.save(plain, ids)
    packed.write_bytes(PACKERS[ending](plain.read_bytes()))
    how: dict[str, Any] = {
        "sha256": "0" * 64,
        "dtype": "uint16",
        "key": None,
        "cache": tmp_path / "cache",
    }
    for _ in range(2):
        assert (open_shard(packed, name="s", **how) == ids).all()
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 1


def text_data(path: Path, **options: Any) -> TextData:
    settings = {"document": "file", "encoding": "utf-8", "validation_fraction": 0.05, **options}
    return TextData({"train": [path]}, SimpleNamespace(**settings))
