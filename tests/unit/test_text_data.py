"""Text files as data: patterns, documents, the validation share, URLs, and clear errors."""

from __future__ import annotations

import os
import re
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest
from pydantic import ValidationError

from llmforge.errors import DataError
from llmforge.interfaces import RunContext
from llmforge.recipe.schema import TrainTable
from llmforge_plugins.data import _text
from llmforge_plugins.data._documents import (
    cut_before,
    document_parts,
    documents,
    joined,
    parts_before,
    parts_behind,
)
from llmforge_plugins.data.text import Text


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path, notices, monkeypatch) -> RunContext:
    monkeypatch.chdir(tmp_path)
    return RunContext(
        id="r",
        directory=tmp_path / "run",
        cache=tmp_path / "cache",
        config={},
        train=TrainTable(max_steps=1),
        seed=1,
        context=8,
        notice=notices.append,
    )


def build(run, **options):
    return Text(Text.Options(**options)).forge_build_data(run=run)


def write(**texts: str) -> None:
    for name, text in texts.items():
        Path(f"{name}.txt").write_text(text)


def test_files_are_documents_in_the_order_given(run):
    write(b="B", a="A", c="C")
    data = build(run, train=["b.txt", "a.txt"], validation="c.txt")
    assert list(data.iter_text("train")) == ["B", "A"]
    assert list(data.iter_text("validation")) == ["C"]
    assert tuple(data.splits) == ("train", "validation")


def test_globs_and_folders_are_sorted(run):
    Path("in/deep").mkdir(parents=True)
    for name in ("in/2.txt", "in/1.txt", "in/deep/3.txt", "in/4.md"):
        Path(name).write_text(name)
    for pattern in ("in", "in/**/*.txt"):
        data = build(run, path=pattern, validation="in/4.md")
        assert list(data.iter_text("train")) == ["in/1.txt", "in/2.txt", "in/deep/3.txt"]


def test_a_test_split_is_read_when_given(run):
    write(a="A\n" * 50, t="T")
    data = build(run, train="a.txt", test="t.txt")
    assert tuple(data.splits) == ("train", "validation", "test")
    assert list(data.iter_text("test")) == ["T"]


TEXT = "\n one\n two\n\n\n three\n \n four"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("file", [TEXT]),
        ("blank_line", ["\n one\n two\n\n\n", " three\n \n", " four"]),
        ("line", ["\n one\n", " two\n\n\n", " three\n \n", " four"]),
    ],
)
def test_documents_by_file_paragraph_or_line(kind, expected):
    assert list(documents(TEXT.splitlines(keepends=True), kind)) == expected


@pytest.mark.parametrize("kind", ["file", "blank_line", "line"])
@pytest.mark.parametrize("text", ["", "\n", "\n\n \n", "a", "a\r\n\r\nb\r\n"])
def test_documents_lose_nothing(kind, text):
    assert "".join(documents(text.splitlines(keepends=True), kind)) == text


def test_without_validation_files_the_end_of_the_text_validates(run):
    write(a="".join(f"line {index}\n" for index in range(100)))
    data = build(run, train="a.txt", validation_fraction=0.1)
    train = "".join(data.iter_text("train"))
    validation = "".join(data.iter_text("validation"))
    assert train + validation == Path("a.txt").read_text()
    assert validation.startswith("line ") and train.endswith("\n")
    assert 0.08 < len(validation) / len(train + validation) < 0.12


def test_whole_documents_validate_where_there_are_several(run):
    write(a="".join(f"line {index}\n" for index in range(100)))
    data = build(run, train="a.txt", document="line", validation_fraction=0.1)
    train, validation = list(data.iter_text("train")), list(data.iter_text("validation"))
    assert train + validation == Path("a.txt").read_text().splitlines(keepends=True)
    assert 8 <= len(validation) <= 12


def divide(texts: list[str], boundary: int, *, size: int) -> list[tuple[str, str]]:
    """Return (split, document), with the documents read in parts of ``size`` characters."""
    parts = [
        (text[start : start + size], start + size >= len(text))
        for text in texts
        for start in range(0, len(text), size)
    ]
    cut = cut_before(parts, boundary)
    train = [("train", text) for text in joined(parts_before(parts, cut))]
    return train + [("validation", text) for text in joined(parts_behind(parts, cut))]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("texts", [["abc"], ["a", "b" * 99], ["a" * 99, "b"], ["x"] * 7])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_both_parts_get_something_and_nothing_is_lost(texts, share, size):
    total = sum(map(len, texts))
    boundary = int(total * (1 - share))
    parts = divide(texts, boundary, size=size)
    assert "".join(text for _, text in parts) == "".join(texts)
    assert any(part == "validation" and text for part, text in parts)
    assert [part for part, _ in parts] == sorted(part for part, _ in parts)


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("texts", "boundary", "train", "validation"),
    [
        (["one\n", "two\n", "three\n"], 5, ["one\n", "two\n"], ["three\n"]),
        (["one\n", "two\n", "three\n"], 8, ["one\n", "two\n"], ["three\n"]),
        (["one\n", "two\nthree\nfour\n"], 16, ["one\n", "two\nthree\n"], ["four\n"]),
        (["one\n", "without lines"], 9, ["one\n", "witho"], ["ut lines"]),
        (["all of it"], 9, ["all of it"], []),
        (["x"], 0, [], ["x"]),
    ],
)
def test_a_document_across_the_boundary_trains_and_only_the_last_is_cut(
    texts, boundary, train, validation, size
):
    found = divide(texts, boundary, size=size)
    assert [text for part, text in found if part == "train"] == train
    assert [text for part, text in found if part == "validation"] == validation


@pytest.mark.parametrize("kind", ["file", "<|endoftext|>", "<|>"])
@pytest.mark.parametrize("size", [1, 3, 1 << 16, 1 << 18])
def test_documents_longer_than_a_part_are_the_same_whatever_blocks_they_come_in(kind, size):
    text = "\r\n<|>\n" + "long < text |> " * 12_000 + "<|endoftext|>\nA<|><|>\n<|endoftext|>"
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    parts = list(document_parts(blocks, kind))
    assert list(joined(parts)) == list(documents([text], kind))
    assert max(len(part) for part, _ in parts) <= max(size, 1 << 17)
    if kind != "file":
        assert list(joined(parts)) == split_by(kind, text)


def split_by(delimiter: str, text: str) -> list[str]:
    """Return what stands between delimiters, without a line break right after one."""
    first, *others = text.split(delimiter)
    return [each for each in (first, *(re.sub(r"\A\r?\n", "", other) for other in others)) if each]


def test_a_paragraph_longer_than_a_part_stays_one_document():
    text = ["first\n", "\n", *["a line\n"] * 50_000, "\n", "last\n"]
    parts = list(document_parts(text, "blank_line"))
    assert max(len(part) for part, _ in parts) < 1 << 17
    assert list(joined(parts)) == ["first\n\n", "a line\n" * 50_000 + "\n", "last\n"]


def test_the_fingerprint_follows_contents_and_rules(run):
    write(a="one\n\ntwo\n", b="one\n\ntwo\n", c="other\n")
    same = {build(run, train=name).fingerprint for name in ("a.txt", "b.txt")}
    assert len(same) == 1
    different = {
        build(run, train="c.txt").fingerprint,
        build(run, train="a.txt", document="line").fingerprint,
        build(run, train="a.txt", validation_fraction=0.3).fingerprint,
        build(run, train="a.txt", validation="c.txt").fingerprint,
    }
    assert len(different | same) == 5


def test_validation_files_are_left_out_of_training(run, notices):
    write(a="A", b="B", valid="V")
    data = build(run, train="*.txt", validation="valid.txt")
    assert list(data.iter_text("train")) == ["A", "B"]
    assert "valid.txt" in notices[0]
    with pytest.raises(DataError, match="not also validation"):
        build(run, train="valid.txt", validation="valid.txt")


def test_a_missing_file_names_pattern_key_and_place(run, tmp_path):
    write(a="A")
    with pytest.raises(DataError, match=rf"data\.text\.validation.*no\*\.txt.*{tmp_path}"):
        build(run, train="a.txt", validation="no*.txt")


def test_missing_files_are_all_reported_before_the_run(run):
    component = Text(Text.Options(path=["x.txt", "s3://bucket/y.txt"], test="z.txt"))
    problems = component.forge_preflight(run=run)
    assert [problem.key.rpartition(".")[2] for problem in problems] == ["path", "test"]
    assert "x.txt" in problems[0].message and "looked in" in problems[0].message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "train"),
        ({"train": "a", "path": "b"}, "not both"),
        ({"train": "a", "encoding": "utf-9"}, "no encoding 'utf-9'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Text.Options(**options)


def test_other_encodings_are_read(run):
    Path("b.txt").write_bytes("café".encode("latin-1"))
    data = build(run, train="b.txt", validation_fraction=0.25, encoding="latin-1")
    assert list(data.iter_text("train")) == ["caf"]
    with pytest.raises(DataError, match=r"b\.txt is not utf-8"):
        build(run, train="b.txt")


def test_urls_are_copied_into_the_cache_and_follow_changes(run, notices):
    files = fsspec.filesystem("memory")
    files.pipe("/text-test/a.txt", b"first")
    options = {"train": "memory://text-test/a.txt"}
    assert "".join(build(run, **options).iter_text("train")) == "firs"
    files.pipe("/text-test/a.txt", b"second")
    assert "".join(build(run, **options).iter_text("train")) == "secon"
    files.rm("/text-test/a.txt")
    assert "".join(build(run, **options).iter_text("train")) == "secon"
    assert "using the copy in the cache" in notices[0]


def test_globs_of_urls_are_expanded(run):
    files = fsspec.filesystem("memory")
    files.pipe("/glob-test/b.txt", b"B")
    files.pipe("/glob-test/a.txt", b"A")
    files.pipe("/glob-test/c.md", b"C")
    data = build(run, train="memory://glob-test/*.txt", validation="memory://glob-test/c.md")
    assert list(data.iter_text("train")) == ["A", "B"]


def test_http_is_read_and_what_is_missing_there_is_named(run, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.txt").write_text("over http")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *arguments) -> None:
            del arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert "".join(build(run, train=f"{url}/a.txt").iter_text("train")) == "over htt"
    with pytest.raises(DataError, match=r"no file matches .*/none\.txt"):
        build(run, train=f"{url}/none.txt")
    server.shutdown()


def test_secrets_in_a_url_are_not_shown(run):
    url = "memory://user:password@host/none.txt?token=secret"
    with pytest.raises(DataError) as caught:
        build(run, train=url)
    assert "password" not in str(caught.value) and "secret" not in str(caught.value)
    assert "none.txt" in str(caught.value)


def test_an_unknown_scheme_says_what_to_install_or_check(run):
    with pytest.raises(DataError, match="nothing://x"):
        build(run, train="nothing://x")


@pytest.mark.parametrize("document", ["file", "<|>"])
def test_a_file_that_looks_the_same_is_not_read_again(run, document, monkeypatch):
    write(a="one<|>two\n" * 20)
    long_ago = time.time() - 60
    os.utime("a.txt", (long_ago, long_ago))
    first = build(run, train="a.txt", document=document)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the file is read")

    with monkeypatch.context() as patch:
        patch.setattr(_text, "scan_text", read)
        patch.setattr(_text, "read_blocks", read)
        again = build(run, train="a.txt", document=document)
    assert (again.fingerprint, again.characters) == (first.fingerprint, first.characters)
    write(a="one<|>two\n" * 19 + "other")
    assert build(run, train="a.txt", document=document).fingerprint != first.fingerprint
