"""``python -m llmforge.sweeps.worker_process``: a worker in a process of its own.

Its standard input is a line to the controller that started it: when that closes, the controller is
gone, and the worker stops its trial with a checkpoint and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llmforge.errors import EXIT_INTERRUPTED, EXIT_OK, ForgeError
from llmforge.printable import printable
from llmforge.redaction import redact
from llmforge.run.signals import StopNow, StopSignals
from llmforge.streams import protect_streams
from llmforge.sweeps.liveness import follow
from llmforge.sweeps.run_trial import ChildTrials
from llmforge.sweeps.sweep import SweepDirectory, load_sweep
from llmforge.sweeps.worker import Worker


def work(directory: Path) -> int:
    """Work on the sweep in ``directory``; return the exit code.

    Raises:
        ForgeError: something that no trial of this sweep can get over.
    """
    with StopSignals() as signals, signals.deferred():
        follow(sys.stdin.fileno())
        sweep = load_sweep(SweepDirectory(directory))
        ledger = sweep.ledger(wait=True)
        executor = ChildTrials(sweep, ledger)
        done = Worker(
            sweep.goal(), ledger, executor, stop=lambda: signals.requested is not None
        ).run()
    # That too many trials have failed is in the ledger, for the controller to tell.
    return EXIT_INTERRUPTED if done is None else EXIT_OK


def main() -> None:
    """Be the worker that the command line asks for."""
    protect_streams(keep_running=True)
    try:
        code = work(Path(sys.argv[1]))
    except ForgeError as error:
        print(f"forge: {printable(redact(str(error)))}", file=sys.stderr)
        code = error.exit_code
    except StopNow:  # a second Ctrl-C; the trial's process saves and ends by itself
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
