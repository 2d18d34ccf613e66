"""WikiText: articles, local folders, the hub or its absence, and the bundled sample."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from llmforge.errors import DataError
from llmforge.interfaces import RunContext
from llmforge.recipe.schema import TrainTable
from llmforge_plugins.data._wikitext import SAMPLE, articles
from llmforge_plugins.data.wikitext import WikiText

ONE = (
    " \n = One = \n \n First text . \n \n = = Part = = \n \n"
    " A formula , l \n = 2 cm . \n = 2 = \n x \n \n"
)
TWO = " \n = Two ( 2 = 1 + 1 ) = \n \n Second text . \n \n"


def run_of(tmp_path: Path, notices: list[str] | None = None, **changes) -> RunContext:
    return RunContext(
        id="r",
        directory=tmp_path / "run",
        cache=tmp_path / "cache",
        config={},
        train=TrainTable(max_steps=1),
        seed=1,
        context=8,
        notice=(notices if notices is not None else []).append,
        **changes,
    )


def build(run: RunContext, **options):
    return WikiText(WikiText.Options(**options)).forge_build_data(run=run)


def test_documents_are_articles_and_together_the_file():
    assert list(articles((ONE + TWO).splitlines(keepends=True))) == [ONE, TWO]


@pytest.mark.parametrize("text", ["", " = A = \n", "no title\n", " \n = A = \n \n x \n \n = B = "])
def test_no_byte_is_lost_whatever_the_form(text):
    assert "".join(articles(text.splitlines(keepends=True))) == text


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.txt", "valid.txt", "test.txt"], ("train", "validation", "test")),
        (["wiki.train.raw", "wiki.valid.raw"], ("train", "validation")),
        (["wiki.train.tokens", "validation.txt"], ("train", "validation")),
    ],
)
def test_a_local_folder_is_read_under_its_customary_names(tmp_path, names, splits):
    for name in names:
        (tmp_path / name).write_text(ONE + TWO)
    data = build(run_of(tmp_path), path=str(tmp_path))
    assert tuple(data.splits) == splits
    assert all("".join(data.iter_text(split)) == ONE + TWO for split in splits)
    assert len(list(data.iter_text("train"))) == 2


def test_the_fingerprint_is_of_the_contents_not_of_the_place(tmp_path):
    prints = []
    for folder, name, text in (
        ("a", "train.txt", ONE),
        ("b", "wiki.train.raw", ONE),
        ("c", "train.txt", TWO),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        prints.append(build(run_of(tmp_path), path=str(tmp_path / folder)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_line_ends_and_odd_separators_are_kept(tmp_path):
    text = " \n = A = \n \n one\r\n two\x85 three\u2028 four \n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert "".join(build(run_of(tmp_path), path=str(tmp_path)).iter_text("train")) == text


def test_a_missing_folder_or_file_is_named_before_the_run_too(tmp_path):
    for path, expected in ((tmp_path / "none", "no folder"), (tmp_path, "wiki.train.raw")):
        component = WikiText(WikiText.Options(path=str(path)))
        (problem,) = component.forge_preflight(run=run_of(tmp_path))
        assert expected in problem.message and str(path) in problem.message
        assert "data.wikitext.path" in problem.remedy
        with pytest.raises(DataError, match=expected):
            build(run_of(tmp_path), path=str(path))


def test_text_that_is_not_utf8_is_a_data_error(tmp_path):
    (tmp_path / "train.txt").write_bytes(b" = A = \n \xff\xfe \n")
    with pytest.raises(DataError, match=r"train\.txt is not utf-8 text"):
        list(build(run_of(tmp_path), path=str(tmp_path)).iter_text("train"))


def test_a_folder_behind_a_url_is_copied_and_serves_offline(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe("/wikitext-test/wiki.train.raw", (ONE + TWO).encode())
    files.pipe("/wikitext-test/valid.txt", TWO.encode())
    url = "memory://wikitext-test"
    data = build(run_of(tmp_path), path=url)
    assert "".join(data.iter_text("train")) == ONE + TWO
    assert tuple(data.splits) == ("train", "validation")
    files.rm("/wikitext-test", recursive=True)
    notices: list[str] = []
    again = build(run_of(tmp_path, notices), path=url)
    assert again.fingerprint == data.fingerprint
    assert "using the copy in the cache" in notices[0]


def test_a_url_without_the_files_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"looked for train\.txt"):
        build(run_of(tmp_path), path="memory://nothing-here")


def test_offline_without_cache_falls_back_to_the_sample_and_says_so(tmp_path):
    notices: list[str] = []
    data = build(run_of(tmp_path, notices, offline=True), offline_sample=True)
    assert data.resolution == {"source": "sample"}
    assert tuple(data.splits) == ("train", "validation", "test")
    assert re.fullmatch(
        r"WikiText-2 is not reachable \(offline mode is on .*\): "
        r"training on the bundled sample of \d+ KB",
        notices[0],
    )


def test_offline_without_the_sample_says_what_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        build(run_of(tmp_path, offline=True), subset="wikitext-103-raw-v1")
    for part in ("WikiText-103", "data.wikitext.path", "offline_sample", "HF_ENDPOINT"):
        assert part in str(caught.value)


def test_a_run_started_on_the_sample_stays_on_it(tmp_path):
    notices: list[str] = []
    run = run_of(tmp_path, notices, resolved={"data": {"source": "sample"}})
    assert build(run, offline_sample=True).resolution == {"source": "sample"}
    assert notices == []


def test_a_run_started_on_the_corpus_never_falls_back(tmp_path):
    run = run_of(tmp_path, offline=True, resolved={"data": {"source": "hub"}})
    with pytest.raises(DataError, match="not reachable"):
        build(run, offline_sample=True)


class Hub:
    """A stand-in for the hub on this machine: small Parquet files of the right names."""

    def __init__(self, texts: dict[str, list[str]], *, stall: bool = False) -> None:
        self.requests: list[str] = []
        files: dict[str, bytes] = {}
        for name, rows in texts.items():
            buffer = io.BytesIO()
            parquet.write_table(pyarrow.table({"text": rows}), buffer)
            files[name] = buffer.getvalue()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                hub.requests.append(self.path)
                if stall:
                    hub.released.wait(30)
                    return
                name = self.path.rpartition("/")[2]
                content = files.get(name)
                self.send_response(404 if content is None else 200)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{name}"')
                self.send_header("X-Repo-Commit", self.path.split("/")[5])
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *arguments) -> None:
                del arguments

        self.released = Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()


BUILD = """
import json, sys, time
sys.path.insert(0, {tests!r})
from test_wikitext import *
notices = []
started = time.monotonic()
answer = {{}}
try:
    data = build(run_of(Path("."), notices), **json.loads({options!r}))
    answer = {{split: "".join(data.iter_text(split)) for split in data.splits}}
    answer["resolution"] = data.resolution
except DataError as error:
    answer["error"] = str(error)
print(json.dumps({{**answer, "notices": notices, "seconds": time.monotonic() - started}}))
"""


def build_from(directory: Path, endpoint: str, **options) -> dict:
    """Build in a process of its own: the hub's library reads its settings when imported."""
    code = BUILD.format(tests=str(Path(__file__).parent), options=json.dumps(options))
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(directory / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output)


ROWS = ["", " = One = \n", "", " First text . \n", ""]


@pytest.fixture
def hub():
    hub = Hub(
        {f"{split}-00000-of-00001.parquet": ROWS for split in ("train", "validation", "test")}
    )
    yield hub
    hub.close()


def test_the_hub_gives_the_text_of_the_files_and_is_asked_once(tmp_path, hub):
    answer = build_from(tmp_path, hub.url)
    text = " \n = One = \n \n First text . \n \n"
    assert [answer[split] for split in ("train", "validation", "test")] == [text] * 3
    assert answer["resolution"] == {
        "source": "hub",
        "repository": "Salesforce/wikitext",
        "language": "en",
    }
    asked = len(hub.requests)
    assert build_from(tmp_path, "http://127.0.0.1:9")["train"] == text
    assert len(hub.requests) == asked


def test_a_damaged_cache_of_the_corpus_is_prepared_again(tmp_path, hub):
    first = build_from(tmp_path, hub.url)
    (path,) = tmp_path.glob("cache/datasets/wikitext/*/train.txt")
    path.write_text("changed")
    again = build_from(tmp_path, hub.url)
    assert again["train"] == first["train"]
    assert "damaged" in again["notices"][0]


def test_a_corpus_of_two_shards_is_joined(tmp_path):
    names = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
    names += ["test-00000-of-00001"]
    hub = Hub({f"{name}.parquet": ["", f" = {name} = \n"] for name in names})
    answer = build_from(tmp_path, hub.url, subset="wikitext-103-raw-v1")
    hub.close()
    assert answer["train"] == f" \n = {names[0]} = \n \n = {names[1]} = \n"


def test_a_wrong_revision_is_named(tmp_path):
    hub = Hub({})
    answer = build_from(tmp_path, hub.url, revision="nowhere", offline_sample=True)
    hub.close()
    assert "data.wikitext.revision = 'nowhere'" in answer["error"]


@pytest.mark.parametrize("stall", [False, True], ids=["refused", "stalled"])
def test_an_unreachable_hub_means_the_sample_within_five_seconds(tmp_path, stall):
    hub = Hub({}, stall=stall)
    if not stall:
        hub.close()
        hub.server.server_close()
    answer = build_from(tmp_path, hub.url, offline_sample=True)
    hub.close()
    assert answer["seconds"] < 5
    assert answer["resolution"] == {"source": "sample"}
    assert "not reachable" in answer["notices"][0]


# The bundled sample ---------------------------------------------------------------------------


def sample_articles() -> dict[str, list[str]]:
    return {
        name: list(articles((SAMPLE / f"{name}.txt").read_text().splitlines(keepends=True)))
        for name in ("train", "valid", "test")
    }


def test_the_sample_is_large_and_varied_enough():
    found = sample_articles()
    everything = [article for part in found.values() for article in part]
    titles = [article.splitlines()[1] for article in everything]
    assert len(set(titles)) == len(titles) >= 60
    assert sum(len(article.encode()) for article in everything) >= 120_000
    for name in ("valid", "test"):
        assert 0.05 < sum(map(len, found[name])) / sum(map(len, everything)) < 0.12
    assert min(map(len, everything)) > 1000


def test_the_sample_has_the_format_of_wikitext():
    glued = re.compile(r"\w[,.;:!?)](?=\s)|\(\w|\w[,;:]\w|\"\w|\w\"|\w'\w|\w-\w")
    for article in (article for part in sample_articles().values() for article in part):
        lines = article.removesuffix("\n").split("\n")
        assert lines[0] == lines[2] == lines[-1] == " "
        assert lines[1].startswith(" = ") and lines[1].endswith(" = ")
        for line in lines:
            assert line == " " or (line[0] == line[-1] == " " and line[1:-1].strip() == line[1:-1])
            assert "  " not in line
            assert not glued.search(line), line


def test_no_two_articles_of_the_sample_share_a_sentence():
    seen: Counter[str] = Counter()
    for article in (article for part in sample_articles().values() for article in part):
        lines = [line for line in article.splitlines() if not line.startswith(" =")]
        sentences = {part.strip() for line in lines for part in re.split(r" [.!?] ", line)}
        seen.update(sentence for sentence in sentences if len(sentence) > 12)
    assert len(seen) > 1000
    assert [sentence for sentence, count in seen.items() if count > 1] == []


def test_the_sample_names_its_licence():
    assert "CC0-1.0" in (SAMPLE / "LICENSE").read_text()
