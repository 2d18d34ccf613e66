"""Tokenizers: round trips, saved copies, the cache, and clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

import pytest

from llmforge.data.pieces import batches_of_pieces
from llmforge.errors import DataError
from llmforge.interfaces import RunContext
from llmforge.recipe.schema import TrainTable
from llmforge_plugins.tokenizers import _bpe
from llmforge_plugins.tokenizers.bpe import Bpe
from llmforge_plugins.tokenizers.bytes import Bytes
from llmforge_plugins.tokenizers.hf import HuggingFace

TEXT = "The quick brown fox jumps over the lazy dog . \n It barks ; the fox runs . \n"
ODD = "naïve 東京 🦊 \x00 <|endoftext|>\r\n\t end "


class Corpus:
    splits = ("train",)
    description = "a corpus of a test"

    def __init__(self, text: str = TEXT * 30) -> None:
        self.text = text
        self.fingerprint = text
        self.reads = 0

    def iter_text(self, split: str) -> Iterator[str]:
        assert split == "train"
        self.reads += 1
        yield self.text


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path, notices) -> RunContext:
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


def bpe(run, data=None, **options):
    component = Bpe(Bpe.Options(**{"vocab_size": 300, **options}))
    return component.forge_build_tokenizer(run=run, data=data or Corpus())


@pytest.fixture
def saved(run, tmp_path) -> Path:
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    bpe(run).save(directory)
    return directory


def hf(run, source, **options):
    component = HuggingFace(HuggingFace.Options(source=str(source), **options))
    return component.forge_build_tokenizer(run=run, data=Corpus())


def test_bpe_decodes_to_what_was_encoded(run):
    tokenizer = bpe(run)
    for text in (TEXT, ODD, "", " "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bpe_learns_the_words_of_the_text(run):
    tokenizer = bpe(run)
    assert len(tokenizer.encode(" the fox")) == 2
    assert tokenizer.vocab_size == 300


def test_a_batch_is_encoded_like_its_texts(run):
    for tokenizer in (bpe(run), Bytes().forge_build_tokenizer(run=run, data=Corpus())):
        texts = [TEXT, ODD, ""]
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_the_pieces_of_a_long_text_give_the_tokens_of_the_whole(run):
    tokenizer = bpe(run)
    text = "\n\n".join(TEXT + " " * (index % 4) + "A 17th  \n" for index in range(2000))
    pieces = [piece.text for batch in batches_of_pieces([text]) for piece in batch]
    assert len(pieces) > 5
    assert list(chain(*tokenizer.encode_batch(pieces))) == tokenizer.encode(text)


def test_end_of_text_in_a_text_stays_text_and_its_token_decodes_to_nothing(run):
    tokenizer = bpe(run)
    assert tokenizer.eos_id not in tokenizer.encode("a<|endoftext|>b")
    ids = [*tokenizer.encode("a"), tokenizer.eos_id, *tokenizer.encode("b")]
    assert tokenizer.decode(ids) == "ab"


def test_bpe_takes_the_size_and_the_end_of_text_asked_for(run):
    tokenizer = bpe(run, vocab_size=270, end_of_text="</s>")
    assert tokenizer.vocab_size == 270
    assert tokenizer.decode([tokenizer.eos_id]) == ""


def test_a_small_text_gives_a_smaller_vocabulary_and_says_so(run, notices):
    tokenizer = bpe(run, Corpus("ab ab ab"), vocab_size=4096)
    assert tokenizer.vocab_size < 300
    assert "4096" in notices[0] and str(tokenizer.vocab_size) in notices[0]


def test_bpe_training_is_kept_and_found_again(run):
    first = bpe(run)
    data = Corpus()
    assert bpe(run, data).fingerprint == first.fingerprint
    assert data.reads == 0
    assert bpe(run, data, vocab_size=280).fingerprint != first.fingerprint
    assert data.reads == 1


def test_bpe_training_is_deterministic_across_processes(run, tmp_path):
    code = (
        "import sys; sys.path.insert(0, {0!r})\n"
        "from pathlib import Path\n"
        "from test_tokenizers import *\n"
        "run = RunContext(id='r', directory=Path({1!r}), cache=Path({1!r}), config={{}},\n"
        "    train=TrainTable(max_steps=1), seed=1, context=8)\n"
        "print(bpe(run).fingerprint)\n"
    ).format(str(Path(__file__).parent), str(tmp_path / "other"))
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == bpe(run).fingerprint


def test_a_damaged_cached_tokenizer_is_trained_again(run, notices):
    first = bpe(run)
    (path,) = run.cache.glob("tokenizers/*/tokenizer.json")
    path.write_text(path.read_text()[:-20])
    assert bpe(run).fingerprint == first.fingerprint
    assert "damaged" in notices[0]


def test_a_saved_tokenizer_comes_back_the_same(run, saved):
    loaded = Bpe().forge_load_tokenizer(run=run, directory=saved)
    original = bpe(run)
    assert loaded.encode(ODD) == original.encode(ODD)
    assert (loaded.fingerprint, loaded.vocab_size, loaded.eos_id) == (
        original.fingerprint,
        original.vocab_size,
        original.eos_id,
    )


def test_a_saved_tokenizer_that_was_changed_is_refused(run, saved):
    path = saved / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|endoftexx|>"))
    config = saved / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|endoftext|>", "<|endoftexx|>"))
    with pytest.raises(DataError, match="was changed after it was saved"):
        Bpe().forge_load_tokenizer(run=run, directory=saved)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "forge.json"])
def test_a_saved_tokenizer_without_one_of_its_files_is_refused(run, saved, name):
    (saved / name).unlink()
    with pytest.raises(DataError, match=name):
        Bpe().forge_load_tokenizer(run=run, directory=saved)


def test_bytes_are_the_utf8_bytes(run, tmp_path):
    tokenizer = Bytes().forge_build_tokenizer(run=run, data=Corpus())
    assert tokenizer.encode("é") == [0xC3, 0xA9]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (257, 256)
    assert tokenizer.decode([0xC3, 0xA9, 256, 0xC3]) == "é�"
    tokenizer.save(tmp_path)
    assert Bytes().forge_load_tokenizer(run=run, directory=tmp_path).decode([65]) == "A"


def test_a_tokenizer_of_another_type_is_refused(run, saved):
    with pytest.raises(DataError, match="'tokenizers', not 'bytes'"):
        Bytes().forge_load_tokenizer(run=run, directory=saved)


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_hf_reads_a_folder_or_a_file(run, saved, name):
    tokenizer = hf(run, saved / name)
    assert tokenizer.encode(TEXT) == bpe(run).encode(TEXT)
    assert tokenizer.eos_id == bpe(run).eos_id


def test_hf_takes_the_end_of_text_from_a_table_or_the_option(run, saved):
    config = saved / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    assert hf(run, saved).eos_id == bpe(run).eos_id
    config.unlink()
    assert hf(run, saved).eos_id is None
    assert hf(run, saved, end_of_text="a").eos_id == bpe(run).encode("a")[0]
    with pytest.raises(DataError, match=r"no token '<none>'.*\n.*end_of_text"):
        hf(run, saved, end_of_text="<none>")


def test_hf_ignores_the_truncation_and_padding_a_file_asks_for(run, saved):
    path = saved / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(content))
    assert len(hf(run, saved).encode(TEXT)) > 3


def test_hf_survives_saving_and_loading(run, saved, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    original = hf(run, saved)
    original.save(target)
    loaded = HuggingFace(HuggingFace.Options(source="gone")).forge_load_tokenizer(
        run=run, directory=target
    )
    assert loaded.fingerprint == original.fingerprint


@pytest.mark.parametrize("source", ["missing.json", "./missing", "a/b/c"])
def test_hf_names_a_local_source_that_is_missing(run, source):
    component = HuggingFace(HuggingFace.Options(source=source))
    (problem,) = component.forge_preflight(run=run)
    assert "looked in" in problem.message
    with pytest.raises(DataError, match="no file or folder"):
        hf(run, source)


def test_hf_names_a_folder_without_a_tokenizer(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        hf(run, tmp_path / "empty")


class Hub:
    """A stand-in for the hub on this machine that serves the files of one repository."""

    def __init__(self, files: dict[str, bytes]) -> None:
        hub = self
        hub.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                hub.requests.append(self.path)
                name = self.path.rpartition("/")[2]
                content = files.get(name)
                self.send_response(200 if content is not None else 404)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{name}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *arguments) -> None:
                del arguments

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


HF_BUILD = """
import sys, time
sys.path.insert(0, {tests!r})
from test_tokenizers import *
run = RunContext(id="r", directory=Path("run"), cache=Path("cache"), config={{}},
    train=TrainTable(max_steps=1), seed=1, context=8, offline={offline})
started = time.monotonic()
try:
    print(hf(run, "org/name").fingerprint)
except DataError as error:
    print(error)
print(time.monotonic() - started)
"""


def build_from_hub(directory: Path, endpoint: str, *, offline: bool = False) -> tuple[str, float]:
    code = HF_BUILD.format(tests=str(Path(__file__).parent), offline=offline)
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
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    *message, seconds = output.strip().splitlines()
    return "\n".join(message), float(seconds)


def test_hf_downloads_from_the_hub_once_and_then_works_offline(run, saved, tmp_path):
    names = ("tokenizer.json", "tokenizer_config.json")
    hub = Hub({name: (saved / name).read_bytes() for name in names})
    expected = hf(run, saved).fingerprint
    assert build_from_hub(tmp_path, hub.url)[0] == expected
    asked = len(hub.requests)
    assert build_from_hub(tmp_path, hub.url, offline=True)[0] == expected
    assert len(hub.requests) == asked
    hub.server.shutdown()


def test_hf_says_what_the_hub_does_not_have(tmp_path):
    hub = Hub({})
    message, _ = build_from_hub(tmp_path, hub.url)
    assert "no tokenizer.json in 'org/name' at revision 'main' on the hub" in message
    hub.server.shutdown()


def test_hf_without_a_network_fails_fast_and_says_what_to_do(tmp_path):
    message, seconds = build_from_hub(tmp_path, "http://127.0.0.1:9")
    assert seconds < 8
    assert "tokenizer.json of 'org/name' at revision 'main'" in message
    assert "HF_ENDPOINT" in message


SLOW_TRAINING = """
import signal, sys
sys.path.insert(0, {tests!r})
from test_tokenizers import *

class Endless(Corpus):
    def iter_text(self, split):
        print("started", flush=True)
        while True:
            yield TEXT * 10000

def stop(number, frame):
    raise SystemExit(75)

signal.signal(signal.SIGTERM, stop)
run = RunContext(id="r", directory=Path({cache!r}), cache=Path({cache!r}), config={{}},
    train=TrainTable(max_steps=1), seed=1, context=8)
bpe(run, Endless())
"""


def test_a_signal_ends_bpe_training_at_once(tmp_path):
    code = SLOW_TRAINING.format(tests=str(Path(__file__).parent), cache=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 75
    assert time.monotonic() - sent < 3
    process.stdout.close()
    assert not list((tmp_path / "tokenizers").glob("*"))


def test_a_training_process_that_dies_is_a_data_error(run, monkeypatch):
    class Deadly(Corpus):
        """Kills the worker after the first text, as a full memory would."""

        def iter_text(self, split: str) -> Iterator[str]:
            for _ in range(1000):
                yield from super().iter_text(split)
                (worker,) = workers
                worker._process.kill()

    workers = []
    original = _bpe.child

    @contextmanager
    def watched(*arguments):
        with original(*arguments) as worker:
            workers.append(worker)
            yield worker

    monkeypatch.setattr(_bpe, "child", watched)
    with pytest.raises(DataError, match=r"ended with status -9"):
        bpe(run, Deadly())
    assert not list(run.cache.glob("tokenizers/*"))


def test_a_training_process_whose_parent_died_gives_up():
    worker = Path(_bpe.__file__).with_name("_bpe_worker.py")
    options = Bpe.Options().model_dump_json()
    text = b"cut off in the middle"
    for sent in (b"", b"\0\0", (100).to_bytes(4, "big") + text):
        process = subprocess.run(
            [sys.executable, str(worker), options], input=sent, capture_output=True, check=False
        )
        assert process.returncode != 0
        assert process.stdout == b""
