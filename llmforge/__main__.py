"""``python -m llmforge`` and the script ``forge``: the command line, from its first instant on.

A scheduler may stop ``forge train`` or ``forge sweep`` while Python is still importing. Nothing has
been begun then, and the exit code must say so as it does later: put me in the queue again.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from llmforge.distributed.launched import end_code, end_process
from llmforge.errors import EXIT_INTERRUPTED, EXIT_OK

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run the command line."""
    if {"train", "sweep"} & set(sys.argv[1:]):
        for number in _SIGNALS:
            signal.signal(number, _stop)
    from llmforge.cli.app import main as run

    code = EXIT_OK
    try:
        run()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    finally:
        # What the run came to is decided; only the interpreter's own end is left to interrupt.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    end_process(end_code(code))


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    sys.stderr.write(f"forge: stopped by {name} before anything was begun\n")
    sys.stderr.flush()
    os._exit(end_code(EXIT_INTERRUPTED))


if __name__ == "__main__":
    main()
