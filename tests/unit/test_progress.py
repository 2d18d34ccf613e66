"""Work that takes long is counted where it is done, and shown on a terminal once it does."""

from __future__ import annotations

import gzip
import io
import os
import pty
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_drafts import save
from rich.console import Console
from rich.table import Table
from upload_parts import Told, make_remote, make_run, upload_all, uploader

from llmforge import progress
from llmforge.checkpoint import verify
from llmforge.checkpoint.hashed_files import hash_file
from llmforge.courier import Courier
from llmforge.data.shards import TokenSplit, shard_splits
from llmforge.data.tokens import prepare_tokens
from llmforge.interfaces import Batch, TokenShard
from llmforge.progress import Task, show_on, track, under_way
from llmforge.recipe.schema import StorageKeys
from llmforge.run.reporting.progress_bars import TerminalBars, add_bars, progress_text
from llmforge.run.reporting.reporter import LiveReporter
from llmforge.run.reporting.upload_status import UploadWatch
from llmforge.run.setup.limited_data import LimitedData
from llmforge.run.training.evaluation import evaluate
from llmforge.testing import run_context
from llmforge.testing.stand_ins import TinyData, TinyTokenizer
from llmforge_plugins.data import _remote
from llmforge_plugins.data._remote import fetch_urls
from llmforge_plugins.data._text import TextData

BAR = "━"


class Recorder:
    """Notes the tasks that ended."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def task_started(self, task: Task) -> None:
        del task

    def task_ended(self, task: Task) -> None:
        self.tasks.append(task)

    def done(self) -> list[tuple[str, float, float | None, str]]:
        return [(task.what, task.done, task.total, task.unit) for task in self.tasks]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What this process has worked through."""
    found = Recorder()
    before = show_on(found)
    yield found
    show_on(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets so many seconds pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_what_is_left_follows_from_the_rate_so_far(clock: Callable[[float], None]) -> None:
    with track("hashing", total=100) as task:
        assert task.seconds_left is None
        task.advance(10)
        clock(5)
        assert task.seconds_left == pytest.approx(45)
        assert progress_text(task) == "10%  10 bytes of 100 bytes  ETA 0:45"
        task.restart("verifying", total=50)
        task.advance(25)
        clock(1)
        assert task.seconds_left == pytest.approx(1)


def test_work_of_unknown_length_is_told_with_its_rate(clock: Callable[[float], None]) -> None:
    with track("reading", unit="tokens") as task:
        clock(4)
        assert progress_text(task) == "0:04"
        task.advance(20_000)
        assert progress_text(task) == "20,000 tokens, 5,000 tokens/s"


def test_only_what_takes_longer_than_two_seconds_is_under_way(
    clock: Callable[[float], None],
) -> None:
    with track("long"):
        clock(1)
        with track("short"):
            clock(1)
            assert [task.what for task in under_way()] == ["long"]
    assert under_way(seconds=0.0) == []


def test_an_error_ends_a_task(recorder: Recorder) -> None:
    with pytest.raises(KeyError), track("failing"):
        raise KeyError
    assert under_way(seconds=0.0) == []
    assert len(recorder.tasks) == 1


def test_counting_from_several_threads_loses_nothing() -> None:
    with track("counting") as task:
        threads = [
            threading.Thread(target=lambda: [task.advance(1) for _ in range(5_000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert task.done == 20_000


# On a terminal ---------------------------------------------------------------------------------


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    """What a terminal with bars that come after a tenth of a second is sent."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100)
    before = show_on(TerminalBars(console=lambda: console, after=0.1))
    yield sent
    show_on(before)


def test_a_bar_is_shown_and_taken_away_again(screen: io.StringIO) -> None:
    with track("hashing", total=4_000_000) as task:
        task.advance(1_000_000)
        time.sleep(0.7)
        shown = screen.getvalue()
        assert "hashing" in shown
        assert BAR in shown
        assert "25%  1.0 MB of 4.0 MB  ETA 0:0" in shown
    assert screen.getvalue().endswith("\x1b[2K")  # its last line is erased
    for thread in threading.enumerate():
        if thread.name == "forge-progress":
            thread.join(1)
            assert not thread.is_alive()


def test_what_is_quick_shows_nothing() -> None:
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100)
    before = show_on(TerminalBars(console=lambda: console, after=0.6))
    try:
        for _ in range(2):
            with track("quick"):
                time.sleep(0.3)  # long enough for the display to look
    finally:
        show_on(before)
    assert sent.getvalue() == ""


def test_later_work_has_a_bar_of_its_own(screen: io.StringIO) -> None:
    for name in ("first", "second"):
        with track(name):
            time.sleep(0.4)
    assert "first" in screen.getvalue()
    assert "second" in screen.getvalue()


def test_the_live_table_of_a_run_has_the_bars_instead(
    screen: io.StringIO, clock: Callable[[float], None]
) -> None:
    reporter = LiveReporter()
    with reporter, track("evaluating val", total=10, unit="tokens") as task:
        task.advance(5)
        clock(3)
        told = io.StringIO()
        Console(file=told, width=100).print(reporter._table())
        assert "evaluating val" in told.getvalue()
        assert "50%  5 tokens of 10 tokens  ETA 0:03" in told.getvalue()
    assert screen.getvalue() == ""
    with track("afterwards"):
        assert isinstance(show_on(None), TerminalBars)


def test_there_is_no_row_without_work() -> None:
    table = Table.grid()
    add_bars(table)
    assert table.row_count == 0


SCRIPT = """
import sys, time
from llmforge.cli.app import app
from llmforge import track
import llmforge.cli.data as data
from llmforge.progress import SHOWN_AFTER

def slow(*_, **__):
    with track("preparing", total=10, unit="parts") as task:
        for _ in range(10):
            time.sleep((SHOWN_AFTER + 1) / 10)
            task.advance(1)
    return {"data": "d", "fingerprint": "f", "cache": "c", "vocab_size": 2, "splits": {}}

import llmforge.run.setup.build
llmforge.run.setup.build.prepare_ahead = slow
sys.argv = ["forge", "data", "prepare", "wikitext_tiny", "--json"]
app()
"""


def on_a_terminal(arguments: list[str]) -> str:
    """Run Python with standard error on a terminal; return what that was sent."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *arguments], stderr=follower, stdout=subprocess.PIPE, text=True
    )
    os.close(follower)
    sent = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:
            break
        if not block:
            break
        sent += block
    output, _ = process.communicate()
    os.close(leader)
    assert process.returncode == 0, sent
    assert output.startswith("{")
    return sent.decode()


def test_commands_show_bars_on_a_terminal_and_nowhere_else() -> None:
    sent = on_a_terminal(["-c", SCRIPT])
    assert "preparing" in sent
    assert "parts of 10 parts  ETA 0:0" in sent
    piped = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert piped.stderr == ""


# Who counts --------------------------------------------------------------------------------------


def test_an_evaluation_counts_its_tokens(recorder: Recorder) -> None:
    ids = np.arange(97, dtype="<u2")
    split = TokenSplit(
        shards=(TokenShard(name="x", path=Path("x"), ids=ids),), n_bytes=1, documents=1
    )

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(()), torch.tensor(batch["targets"].numel())

    evaluate(compute, split, name="val", context=8, batch_size=4)
    assert recorder.done() == [("evaluating val", 96, 96, "tokens")]


class Sized(TinyData):
    """Data that says how long it is."""

    @property
    def characters(self) -> dict[str, int]:
        return {split: sum(map(len, self.iter_text(split))) for split in self.splits}


def test_tokenising_counts_characters_and_checking_the_cache_bytes(
    recorder: Recorder, tmp_path: Path
) -> None:
    data = Sized()
    for again in (False, True):
        splits = prepare_tokens(
            data,
            TinyTokenizer(),
            cache=tmp_path,
            notice=print,
            check_stop=lambda: None,
            verify=again,
        )
    size = sum(2 * split.n_tokens for split in splits.values())
    checked = ("checking the token cache", size, size, "bytes")
    assert recorder.done() == [
        *(
            (f"tokenising {split}", data.characters[split], data.characters[split], "characters")
            for split in data.splits
        ),
        checked,
        checked,
    ]


def test_looking_at_token_shards_counts_the_ids_that_are_not_known(
    recorder: Recorder, tmp_path: Path
) -> None:
    class Tokens(TinyData):
        vocab_size, eos_id = 50, None

        def shards(self, split: str) -> list[TokenShard]:
            return [TokenShard(name=split, path=Path(split), ids=np.arange(40, dtype="<u2"))]

    for _ in range(2):
        shard_splits(Tokens(), TinyTokenizer(), cache=tmp_path, check_stop=lambda: None)  # type: ignore[arg-type]
    every = 40 * len(Tokens().splits)
    assert recorder.done() == [
        ("looking at token shards", every, every, "ids"),
        ("looking at token shards", 0, 0, "ids"),
    ]


def test_hashing_counts_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20_000_000))
    moved: list[int] = []
    hash_file(path, moved=moved.append)
    assert sum(moved) == 20_000_000
    assert len(moved) > 1


def test_verifying_a_checkpoint_counts_its_files(recorder: Recorder, tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 7)
    size = sum(entry.size for entry in checkpoint.manifest.files.values())
    assert verify(checkpoint.path) == []
    assert recorder.done() == [("verifying step-00000007", size, size, "bytes")]


def test_uploading_reading_back_and_fetching_count_what_moves(
    recorder: Recorder, tmp_path: Path
) -> None:
    directory, remote = make_run(tmp_path, 1), make_remote(tmp_path)
    upload_all(directory, remote)
    (commit,) = remote.commits()
    assert remote.verify(commit, deep=True) == []
    remote.fetch(commit, tmp_path / "fetched" / "step-00000001")
    state = sum(entry.size for entry in commit.files.values())
    known = {task.what: (task.done, task.total) for task in recorder.tasks}
    assert known["verifying step 1"] == (commit.size, commit.size)  # the last part of an upload
    assert known["reading back step 1"] == (commit.size, commit.size)
    assert known["fetching step 1"] == (state, state)


def test_what_waits_for_its_upload_is_counted_from_the_records(tmp_path: Path) -> None:
    directory, remote = make_run(tmp_path, 1, 2), make_remote(tmp_path)
    keys = StorageKeys(url=f"file://{tmp_path}/storage")
    watch = UploadWatch(directory, keys, place=remote.url, on_committed=lambda *_: None)
    with track("uploading") as task:
        watch.count(task)
        assert task.total
        assert task.done == 0
        thread = uploader(directory, remote, Told(), only=frozenset({2}))
        thread.start()
        thread.close()
        thread.join(30)
        watch.count(task)
        assert 0 < task.done < task.total
        upload_all(directory, remote)
        watch.count(task)
        assert task.done == task.total


def test_text_counts_the_bytes_of_its_files_packed_or_not(
    recorder: Recorder, tmp_path: Path
) -> None:
    text = "a line\n" * 50_000
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(text.encode()))
    files = {"train": [tmp_path / "train.txt"], "validation": [tmp_path / "valid.txt.gz"]}
    data = TextData(files, SimpleNamespace(document="line", encoding="utf-8"))
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    assert recorder.done() == [("reading text", size, size, "bytes")]
    assert data.characters == {"train": len(text), "validation": len(text)}


def test_a_cut_text_says_how_long_its_parts_are(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a line\n" * 100)
    options = SimpleNamespace(document="line", encoding="utf-8", validation_fraction=0.1)
    data = TextData({"train": [tmp_path / "train.txt"]}, options)
    assert data.characters == {"train": 630, "validation": 70}
    assert LimitedData(data, max_documents=3).characters == {"validation": 70}


def test_files_behind_urls_are_counted_as_they_arrive(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{name}.txt" for name in "abc"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(1000))
    download = _remote._download

    def slowly(*arguments: Any) -> Path:
        found = download(*arguments)
        time.sleep(1.2)  # so that the waiting thread looks
        return found

    monkeypatch.setattr(_remote, "_download", slowly)
    run = run_context(tmp_path / "run")
    fetch_urls([f"file://{tmp_path}/{name}" for name in names], run=run)
    assert recorder.done() == [("fetching files", 3000, 3000, "bytes")]


def test_while_the_courier_finishes_uploads_somebody_may_look() -> None:
    courier = object.__new__(Courier)  # without its process
    courier._ask = lambda **_: None  # type: ignore[method-assign]
    courier._uploads = queue.Queue()
    arrived = {"uploads": {"pending": []}}
    found = courier.finish_uploads(0.1, waiting=lambda: courier._uploads.put(arrived))
    assert found == arrived["uploads"]
