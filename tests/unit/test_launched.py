"""How a process that is one of several ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABORTING = """\
import atexit, os, sys

class Aborts:
    def __del__(self, abort=os.abort):
        abort()

kept = Aborts()
atexit.register(print, "registered")
print("said")
"""
END = "from llmforge.distributed.launched import end_process; end_process(75)"


@pytest.mark.parametrize("several", [True, False])
def test_one_of_several_processes_ends_before_the_interpreter_takes_itself_apart(
    several: bool,
) -> None:
    """The object that aborts stands for gloo's threads, whose timing no test can choose."""
    connected = "import llmforge.distributed.process_group\n" if several else ""
    ended = subprocess.run(
        [sys.executable, "-u", "-c", ABORTING + connected + END],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == (75 if several else -6)
    assert ended.stdout == "said\nregistered\n"
