"""A pipe from a parent to its child: closed when the parent ends, however that happens."""

from __future__ import annotations

import os
import signal
import threading


def follow(stream: int) -> None:
    """Ask this process to stop, as SIGTERM does, once the other end of ``stream`` is closed."""

    def wait() -> None:
        while os.read(stream, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="forge-lifeline", daemon=True).start()
