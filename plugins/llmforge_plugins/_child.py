"""Work of compiled libraries in a process of its own, which a signal can end at once.

Rust and C++ code in the main thread holds Python's signal handlers back until it returns, and in
another thread it aborts an interpreter that is shutting down. A child can simply be killed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Child:
    """A running Python script with binary pipes; its error output goes where the parent's goes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self.input: IO[bytes] = process.stdin
        self.output: IO[bytes] = process.stdout

    def result(self) -> tuple[int, bytes]:
        """Close the input and return exit status and output once the script has ended."""
        output, _ = self._process.communicate()
        return self._process.returncode, output


@contextmanager
def child(script: Path, *arguments: str) -> Iterator[Child]:
    """Start ``script``; leaving the block, by an exception too, leaves no process behind.

    The child has a process group of its own: Ctrl-C on a terminal reaches the parent only, which
    decides what to do.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.communicate()
