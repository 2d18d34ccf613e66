"""The signals that ask a run to save and stop."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a run: SIGTERM, Ctrl-C, and SIGHUP when a terminal is gone.

    A process that ``nohup`` started ignores SIGHUP, and continues to.
    """
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, hangup)
