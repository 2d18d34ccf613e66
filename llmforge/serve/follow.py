"""Taking a newer best checkpoint while serving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from llmforge.checkpoint import Checkpoint
from llmforge.errors import ForgeError
from llmforge.generation import locate
from llmforge.serve.served_model import ServedModel


class Follower:
    """Looks at a run's checkpoints now and then, and loads what an address newly means.

    The newer model is loaded beside the one that answers, so there are two for that while.

    Args:
        address: of the run.
        root: directory of all runs.
        current: the checkpoint to begin with.
        load: returns the model of a checkpoint, ready to answer.
        take: is given a newer one.
        note: shows a line to who runs the server.
        seconds: between two looks.
    """

    def __init__(
        self,
        address: str,
        *,
        root: Path,
        current: Checkpoint,
        load: Callable[[Checkpoint], ServedModel],
        take: Callable[[ServedModel], None],
        note: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._address = address
        self._root = root
        self._path = current.path
        self._load = load
        self._take = take
        self._note = note
        self._seconds = seconds
        self._told = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forge-serve-follow", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self.look()
            except (ForgeError, OSError) as error:
                # it may be being written or removed right now: the next look will tell
                if str(error) != self._told:
                    self._note(f"the newer checkpoint is not taken yet: {error}")
                self._told = str(error)

    def look(self) -> bool:
        """Take a newer checkpoint if there is one; return whether there was.

        Raises:
            ForgeError: it cannot be loaded.
        """
        found = locate(self._address, root=self._root)
        if found.path == self._path:
            return False
        model = self._load(found)
        self._path = found.path
        self._take(model)
        self._note(f"step {found.step} answers from now on")
        return True
