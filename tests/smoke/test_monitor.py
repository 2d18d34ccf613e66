"""``forge monitor`` as a process: a run is watched from before its start to after its resume."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from forge_process import PATIENCE_SECONDS, Workplace, environment, logged

COMMAND = [sys.executable, "-m", "llmforge", "monitor"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("watched"), {"generation.prompts": "[]"})


@pytest.fixture(scope="module")
def watched(place: Workplace) -> Iterator[str]:
    """What the monitor printed while a run appeared, was killed, was resumed and completed."""
    output = place.path / "monitor.txt"

    def has_printed(text: str) -> Callable[[], bool]:
        return lambda: text in output.read_text()

    with output.open("wb") as file:
        monitor = subprocess.Popen(
            [*COMMAND, "tiny", "--refresh", "0.2"],
            cwd=place.path,
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(has_printed("tiny waiting"))
        process = place.start()
        assert process.wait_for(logged("step 12/60"))
        process.process.send_signal(signal.SIGSTOP)  # or it has ended before the monitor looks
        wait_until(has_printed("tiny running"))
        process.kill()
        wait_until(has_printed("tiny crashed"))
        place.train()
        wait_until(has_printed("tiny completed"))
        monitor.terminate()
        assert monitor.wait(timeout=20) == 0
    finally:
        monitor.kill()
        monitor.wait()
    yield output.read_text()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.05)


def once(place: Workplace, *arguments: str, columns: int = 80, expect: int = 0) -> str:
    found = subprocess.run(
        [*COMMAND, *arguments],
        cwd=place.path,
        env={**environment(place), "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == expect, found.stderr
    return found.stdout + found.stderr


def test_a_run_is_watched_through_a_kill_and_a_resume(watched: str) -> None:
    places = [
        watched.index(text)
        for text in (
            "tiny waiting",
            "tiny running",
            "tiny crashed",
            "tiny running (start 2)",
            "tiny completed (start 2)",
        )
    ]
    assert places == sorted(places)
    assert "step 60 of 60" in watched
    assert "Traceback" not in watched
    assert "\x1b" not in watched


@pytest.mark.usefixtures("watched")
def test_one_look_in_a_pipe_is_plain_and_80_columns_wide(place: Workplace) -> None:
    text = once(place, "--once")
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for expected in ("tiny  completed", "step 60 of 60", "train loss", "lr", "× val/loss"):
        assert expected in text


@pytest.mark.usefixtures("watched")
def test_one_look_as_json_has_everything(place: Workplace) -> None:
    (run,) = json.loads(once(place, "--once", "--json"))
    assert (run["state"], run["step"], run["starts"]) == ("completed", 60, 2)
    assert run["best"]["metric"] == "val/loss"
    logged = [row["step"] for row in place.rows if "train/loss" in row]
    assert run["curves"]["train/loss"]["step"] == logged


@pytest.mark.usefixtures("watched")
def test_the_log_alone_is_its_last_lines(place: Workplace) -> None:
    lines = once(place, "--once", "--logs-only").splitlines()
    written = (place.run.path / "log.txt").read_text().splitlines()
    assert lines == written[-len(lines) :]
    assert len(lines) >= 10


@pytest.mark.usefixtures("watched")
def test_a_run_that_is_not_there_is_an_error_for_one_look(place: Workplace) -> None:
    text = once(place, "tinny", "--once", expect=1)
    assert "no run 'tinny'" in text
    assert "did you mean 'tiny'?" in text
    assert "Traceback" not in text


@pytest.mark.usefixtures("watched")
def test_q_ends_it_on_a_terminal_and_leaves_the_last_picture(place: Workplace) -> None:
    code, shown = on_a_terminal(place, press=b"q")
    assert code == 0
    assert "\x1b[?1049h" in shown
    assert "\x1b[?1049l" in shown
    assert "\x1b[?25h" in shown[shown.rindex("\x1b[?1049l") - 20 :]
    assert "tiny" in shown[shown.rindex("\x1b[?1049l") :]


@pytest.mark.usefixtures("watched")
def test_ctrl_c_ends_it_on_a_dumb_terminal_without_any_escape(place: Workplace) -> None:
    code, shown = on_a_terminal(place, press=b"\x03", term="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert "tiny completed" in shown


def on_a_terminal(
    place: Workplace, *, press: bytes, term: str = "xterm-256color"
) -> tuple[int, str]:
    """Run the monitor on a pty of 80 columns, press a key when it shows the run."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    own = {name: text for name, text in environment(place).items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [*COMMAND, "--refresh", "0.5"],
        cwd=place.path,
        env={**own, "TERM": term},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=_take_terminal,
    )
    os.close(terminal)
    shown, deadline, pressed = "", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 65536).decode(errors="replace")
            except OSError:  # it is closed
                break
        if not pressed and "tiny" in shown:
            pressed = os.write(main, press) > 0
    os.close(main)
    return process.wait(timeout=10), shown


def _take_terminal() -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
