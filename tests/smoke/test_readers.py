"""A run does not depend on who watches it; any other command ends quietly with its reader."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import ForgeProcess, Workplace, environment, stepping
from sweep_place import SweepPlace

FP32 = {"train.precision": "fp32"}
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


def to(*, output: int | None, error: int | None) -> Callable[[], None]:
    """Return what makes ``output`` and ``error`` a child's streams; None closes them."""

    def redirect() -> None:
        for target, fd in ((1, output), (2, error)):
            os.close(target)
            if fd is not None:
                os.dup2(fd, target)

    return redirect


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def read_lines_and_leave(start: Callable[[int], ForgeProcess], count: int) -> ForgeProcess:
    """Start a process on a pipe, read ``count`` lines of it and close the pipe, as head does."""
    reading, writing = os.pipe()
    process = start(writing)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as lines:
        for _ in range(count):
            assert lines.readline()
    return process


def log_of(workplace: Workplace) -> str:
    return (workplace.run.path / "log.txt").read_text(encoding="utf-8")


def test_a_run_outlives_the_reader_of_its_output(tmp_path: Path, reference: Reference) -> None:
    workplace = Workplace(tmp_path / "work", FP32, UNBUFFERED)
    process = read_lines_and_leave(
        lambda fd: workplace.start(preexec=to(output=fd, error=fd)), 2
    ).finish(expect=0)

    assert not process.output  # nothing of Python's own about a broken pipe either
    assert workplace.record["state"] == "completed"
    assert "step 60/60" in log_of(workplace)
    assert workplace.result() == reference("fp32").result()


@pytest.mark.parametrize("where", ["closed", "/dev/full"])
def test_a_run_needs_no_output_at_all(tmp_path: Path, reference: Reference, where: str) -> None:
    workplace = Workplace(tmp_path / "work", FP32, UNBUFFERED)
    if where == "closed":
        workplace.start(preexec=to(output=None, error=None)).finish(expect=0)
    else:
        with opened(where) as fd:
            workplace.start(preexec=to(output=fd, error=fd)).finish(expect=0)
    assert "step 60/60" in log_of(workplace)
    assert workplace.result() == reference("fp32").result()


def test_a_terminal_that_hangs_does_not_hold_up_a_run(tmp_path: Path) -> None:
    # Debug lines of every step on a terminal whose other end nobody reads.
    workplace = Workplace(tmp_path / "work", FP32 | {"train.log_every": "1"}, UNBUFFERED)
    master, slave = pty.openpty()
    try:
        while _room(slave):
            os.write(slave, b"x")
        workplace.start(preexec=to(output=slave, error=slave)).finish(expect=0, within=60)
    finally:
        os.close(master)
        os.close(slave)
    assert "step 60/60" in log_of(workplace)


def _room(slave: int) -> bool:
    return bool(select.select([], [slave], [], 0.2)[1])


def test_a_dropped_connection_stops_a_run_with_its_checkpoint(
    tmp_path: Path, reference: Reference
) -> None:
    workplace = Workplace(tmp_path / "work", FP32)
    process = workplace.start()
    assert process.wait_for(lambda _: bool(workplace.checkpoints))
    process.process.send_signal(signal.SIGHUP)
    process.finish(expect=75)
    assert workplace.record["state"] == "interrupted"
    assert "stopped by SIGHUP" in workplace.record["exit_reason"]
    assert workplace.checkpoints
    workplace.train_here()
    assert workplace.result() == reference("fp32").result()


def test_a_run_under_nohup_continues_without_the_terminal(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", FP32)
    process = workplace.start(preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # type: ignore[func-returns-value]
    assert process.wait_for(stepping)
    process.process.send_signal(signal.SIGHUP)
    process.finish(expect=0)
    assert workplace.record["state"] == "completed"


@pytest.mark.slow
def test_ranks_outlive_the_reader_of_their_output(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", FP32 | {"backend.name": "ddp"}, UNBUFFERED)
    read_lines_and_leave(
        lambda fd: workplace.start("--nproc-per-node", "2", preexec=to(output=fd, error=fd)), 1
    ).finish(expect=0)
    assert workplace.record["state"] == "completed"


@pytest.mark.slow
def test_a_sweep_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    place = SweepPlace(tmp_path / "sweep", environment=UNBUFFERED)
    read_lines_and_leave(
        lambda fd: place.forge("sweep", "recipe.toml", preexec=to(output=fd, error=fd)), 1
    ).finish(expect=0)
    assert {trial["state"] for trial in place.trials()} <= {"completed", "pruned"}


def run_into_head(workplace: Workplace, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run ``forge`` on a pipe whose reader is gone before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, "-m", "llmforge", *arguments],
            cwd=workplace.path,
            env=environment(workplace) | UNBUFFERED,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(writing)


COMMANDS = [
    ["--help"],
    ["runs", "list"],
    ["runs", "list", "--json"],
    ["runs", "show", "tiny"],
    ["runs", "metrics", "tiny"],
    ["runs", "metrics", "tiny", "--csv"],
    ["checkpoints", "list", "tiny"],
    ["recipe", "show", "recipe.toml"],
    ["plugins", "list"],
    ["generate", "tiny", "--prompt", "The", "--seed", "1"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_ends_quietly_when_its_reader_is_gone(
    reference: Reference, arguments: list[str]
) -> None:
    done = run_into_head(reference("fp32"), arguments)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stderr.decode()
    assert "Error" not in said and "Broken" not in said and "forge:" not in said


def test_a_command_whose_output_cannot_be_kept_says_so(reference: Reference) -> None:
    with opened("/dev/full") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmforge", "runs", "list", "--json"],
            cwd=reference("fp32").path,
            env=environment(reference("fp32")),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("forge: standard output cannot be written: No space left")
    assert "Traceback" not in done.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def forge_in_ascii(workplace: Workplace, *arguments: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [os.fsencode(sys.executable), b"-m", b"llmforge", *arguments]
    return subprocess.run(
        command,
        cwd=workplace.path,
        env={**environment(workplace), "FORGE_RUN_ROOT": "", **ASCII},
        capture_output=True,
        timeout=60,
    )


def test_text_that_the_locale_cannot_decode_is_taken_as_it_was_meant(reference: Reference) -> None:
    prompt = "naïve 漢字"
    generate = [b"generate", b"tiny", b"--json", b"--prompt", prompt.encode()]
    done = forge_in_ascii(reference("fp32"), *generate)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["completions"][0]["prompt"] == prompt

    shown = forge_in_ascii(reference("fp32"), *[part for part in generate if part != b"--json"])
    assert shown.returncode == 0, shown.stderr.decode()
    assert shown.stdout.startswith(b"na?ve ??")


@pytest.mark.parametrize(
    "arguments",
    [
        [b"generate", b"tiny", b"--prompt", b"\xff\xfe"],
        [b"recipe", b"check", b"recipe.toml", b"--set", b"run.notes=\xff"],
    ],
)
def test_bytes_that_are_no_text_are_replaced(reference: Reference, arguments: list[bytes]) -> None:
    done = forge_in_ascii(reference("fp32"), *arguments)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", [b"\xff", "naïve".encode(), b"\x1b[31mred"])
def test_a_name_that_cannot_be_shown_is_escaped(reference: Reference, name: bytes) -> None:
    for arguments in ([b"runs", b"show", name], [b"recipe", b"check", name], [b"train", name]):
        done = forge_in_ascii(reference("fp32"), *arguments)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(b"forge: ")
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stderr + done.stdout
        assert done.stderr.isascii()


def test_files_are_named_in_utf8_in_every_locale(tmp_path: Path, reference: Reference) -> None:
    place = reference("fp32").copy(tmp_path / "copy")
    (place.path / "runs").rename(place.path / "läufe")
    root = "läufe".encode()
    done = forge_in_ascii(place, b"train", b"recipe.toml", b"--set", b"run.root=" + root)
    assert done.returncode == 0, done.stderr.decode()
    listed = forge_in_ascii(place, b"runs", b"path", b"tiny", b"--root", root)
    assert listed.stdout == root + b"/tiny\n"
