"""``python -m llmforge`` and the script ``forge``: the command line, from its first instant on.

A scheduler may stop ``forge train`` or ``forge sweep`` while Python is still importing. Nothing has
been started then, and the exit code must say so as it does later: put me in the queue again.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from signal import Signals
    from types import FrameType

_EXIT_CTRL_C = 130
_TRAINING = frozenset({"train", "sweep", "resume", "clone", "reproduce"})
"""Commands that train, ``forge runs resume`` and its like among them."""


def main() -> None:
    """Run the command line."""
    _name_files_in_utf8()
    trains = bool(_TRAINING & set(sys.argv[1:]))
    mask = _hold_signals() if trains else None
    from llmforge.cli.early.answer import answered

    if (code := answered()) is not None:
        sys.exit(code)
    _run(trains, mask)


def _run(trains: bool, mask: set[Signals | int] | None) -> None:
    import signal

    from llmforge.distributed.launched import end_code, end_process
    from llmforge.errors import EXIT_OK
    from llmforge.stop_signals import stop_signals
    from llmforge.streams import drain, protect_streams

    protect_streams(keep_running=trains)
    stops = stop_signals()
    if trains:
        for number in stops:
            signal.signal(number, _stop)
    try:
        # held until the handlers are there; Ctrl-C of a command that trains nothing ends it here
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        from llmforge.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("forge: stopped\n")
        drain()
        os._exit(_EXIT_CTRL_C)

    code = EXIT_OK
    try:
        run()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    finally:
        # How the run ended is decided; only the interpreter's own end is left to interrupt.
        for number in stops:
            signal.signal(number, signal.SIG_IGN)
    end_process(end_code(code))


def _hold_signals() -> set[Signals | int] | None:
    """Let those that stop a run wait until there is what handles them; return what waited before.

    There is nothing to return where they cannot wait.
    """
    import signal

    from llmforge.stop_signals import stop_signals

    if not hasattr(signal, "pthread_sigmask"):
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())


def _name_files_in_utf8() -> None:
    """Start again in UTF-8 mode where the locale has no name for most files (PEP 540).

    Recipes are UTF-8, and so are the names in them: under ``LC_ALL=C`` none could be opened. What
    is printed keeps the encoding of the terminal.
    """
    if os.name != "posix" or sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ["PYTHONIOENCODING"] = f"{getattr(sys.stdout, 'encoding', 'utf-8')}:surrogateescape"
    os.execv(sys.executable, sys.orig_argv)


def _stop(number: int, frame: FrameType | None) -> None:
    import signal

    from llmforge.distributed.launched import end_code
    from llmforge.errors import EXIT_INTERRUPTED
    from llmforge.streams import drain

    del frame
    name = signal.Signals(number).name
    sys.stderr.write(f"forge: stopped by {name} before anything was started\n")
    drain()
    os._exit(end_code(EXIT_INTERRUPTED))


if __name__ == "__main__":
    main()
