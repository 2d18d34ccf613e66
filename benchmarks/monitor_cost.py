"""What ``forge monitor`` costs while it watches a long run, and how fast it opens one.

    python benchmarks/monitor_cost.py
    python benchmarks/monitor_cost.py --rows 1000000 --seconds 60 --columns 200 --lines 50

A run directory with many rows is made, and this process keeps it in training: it holds the run's
lock, appends a row to ``metrics.jsonl`` and ``timing.jsonl`` twice a second, lines to the log, and
writes the heartbeat. ``forge monitor`` is a real process on a terminal of its own (a pty), at its
default refresh. Its processor time is counted from when the first picture is there; the share is
of one core. Opening is the time in :class:`~llmforge.monitor.RunFollower` until its first snapshot.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil

from llmforge.monitor import RunFollower
from llmforge.rundir import Recorder, RunDirectory, RunLock, RunRecord


def row(step: int) -> str:
    """Return a row as the runner writes it."""
    values = {
        "step": step,
        "epoch": round(step / 1000, 6),
        "tokens_seen": step * 2048,
        "train/loss": 3 + 6 * math.exp(-step / 20_000) + 0.1 * math.sin(step),
        "lr": 1e-3,
        "grad_norm": 0.5 + 0.1 * math.sin(step * 1.3),
    }
    if step % 500 == 0:
        values |= {"val/loss": values["train/loss"] + 0.1, "val/perplexity": 30.0}
    return json.dumps(values) + "\n"


def timing(step: int) -> str:
    """Return a row of clock values."""
    return (
        json.dumps(
            {
                "step": step,
                "time": time.time(),
                "seconds": 0.5,
                "tokens_per_second": 4096.0,
                "eta_seconds": 3600.0,
                "data_share": 0.01,
            }
        )
        + "\n"
    )


class Training:
    """A run that seems to be in training, as far as its files tell."""

    def __init__(self, root: Path, *, rows: int) -> None:
        self.directory = RunDirectory(root / "long")
        self.directory.path.mkdir(parents=True)
        self._step = rows
        self.directory.metrics.write_text("".join(map(row, range(1, rows + 1))), encoding="utf-8")
        now = time.time()
        record = RunRecord(
            "long", restarts=1, created=now, started=now, step=rows, total_steps=rows * 2
        )
        record.heartbeat = {"host": socket.gethostname()}
        self._recorder = Recorder(self.directory, record)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)

    def __enter__(self) -> Training:
        self._lock = RunLock(self.directory.root, "long")
        self._lock.__enter__()
        self._recorder.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._recorder.stop()
        self._lock.__exit__(None, None, None)

    def _train(self) -> None:
        log = self.directory.path / "log.txt"
        with (
            self.directory.metrics.open("a") as metrics,
            self.directory.timing.open("a") as times,
            log.open("a") as lines,
        ):
            while not self._stopped.wait(0.5):
                self._step += 1
                self._recorder.step = self._step
                for file, text in (
                    (metrics, row(self._step)),
                    (times, timing(self._step)),
                    (lines, f"2026-01-01 00:00:00,000 INFO step {self._step}\n"),
                ):
                    file.write(text)
                    file.flush()


def watch(root: Path, *, columns: int, lines: int, seconds: float) -> tuple[float, float, float]:
    """Return seconds to the first picture, the share of a core after it, and memory in MB."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    own = {"TERM": "xterm-256color", "FORGE_RUN_ROOT": str(root)}
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmforge", "monitor"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, **own},
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    while b"q: quit" not in seen:
        seen += os.read(main, 65536)
    first = time.monotonic() - begin
    watched = psutil.Process(process.pid)
    before, since = watched.cpu_times(), time.monotonic()
    while time.monotonic() - since < seconds:
        if select.select([main], [], [], 0.5)[0]:
            os.read(main, 65536)
    after, lasted = watched.cpu_times(), time.monotonic() - since
    spent = after.user + after.system - before.user - before.system
    memory = watched.memory_info().rss / 1e6
    os.write(main, b"q")
    while process.poll() is None:
        if select.select([main], [], [], 0.1)[0]:
            try:
                os.read(main, 65536)
            except OSError:
                break
    assert process.wait() == 0
    return first, spent / lasted, memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=35.0)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--lines", type=int, default=30)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Training(Path(folder), rows=chosen.rows) as run:
        begin, spent = time.perf_counter(), time.process_time()
        RunFollower(run.directory).look()
        opened, processor = time.perf_counter() - begin, time.process_time() - spent
        size = run.directory.metrics.stat().st_size / 1e6
        first, share, memory = watch(
            run.directory.root, columns=chosen.columns, lines=chosen.lines, seconds=chosen.seconds
        )
    print(
        f"{chosen.rows:,} rows, {size:.1f} MB of metrics; {chosen.columns}x{chosen.lines} terminal"
    )
    print(f"opened in {opened:.3f} s ({processor:.3f} s of processor time)")
    print(f"first picture after {first:.2f} s, the interpreter's start included")
    print(f"{share:.2%} of a core over {chosen.seconds:.0f} s, {memory:.0f} MB resident")


if __name__ == "__main__":
    main()
