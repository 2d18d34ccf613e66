"""Keeping the small files of a run the same in storage as here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from llmforge.checkpoint import list_checkpoints
from llmforge.courier.upload_queue import committed_uploads
from llmforge.errors import ForgeError
from llmforge.remote import RemoteRun
from llmforge.remote.layout import COMPLETION
from llmforge.rundir import RunDirectory
from llmforge.rundir.layout import completion_path

MIRROR_SECONDS = 15.0
_Stamp = tuple[int, int]


class Mirror(threading.Thread):
    """Sends the files that changed, every few seconds and once more when it is closed.

    Args:
        directory: the run.
        remote: its place in storage.
        on_error: told a failure, once per distinct message.

    Attributes:
        complete: whether the last look found, or brought, everything there.
    """

    def __init__(
        self, directory: RunDirectory, remote: RemoteRun, *, on_error: Callable[[str], None]
    ) -> None:
        super().__init__(name="mirror-run", daemon=True)
        self._directory = directory
        self._remote = remote
        self._on_error = on_error
        self._sent: dict[str, _Stamp] = {}
        self._reported: set[str] = set()
        self._sent_before = False
        self.complete = False
        self._closing = threading.Event()
        self._wake = threading.Event()

    def hurry(self) -> None:
        """Ask for a look now."""
        self._wake.set()

    def close(self) -> None:
        """Ask for a last look and the end of the thread; :meth:`join` waits for it."""
        self._closing.set()
        self._wake.set()

    def run(self) -> None:
        """Mirror until closed; a failure is tried again with the next look."""
        closing = False
        while not closing:
            self._wake.wait(MIRROR_SECONDS)
            self._wake.clear()
            closing = self._closing.is_set()
            try:
                self.look(last=closing)
                self.complete = closing
            except Exception as error:  # a storage may raise anything; it is reported, not lost
                self._report(error.message if isinstance(error, ForgeError) else repr(error))

    def look(self, *, last: bool = False) -> None:
        """Send what changed since the last time, and at ``last`` what storage has lost, too."""
        if last or not self._sent_before:
            self._remote.begin()
            self._sent_before = True
        if last:
            there = set(self._remote.names())
            self._sent = {name: stamp for name, stamp in self._sent.items() if name in there}
        files = small_files(self._directory)
        if not self._has_final_checkpoint():
            # Who finds the completion elsewhere must find the final model there, too.
            files.pop(COMPLETION, None)
        stamps = {name: _stamp(path) for name, path in files.items()}
        changed = {
            name: stamp
            for name, stamp in stamps.items()
            if stamp is not None and stamp != self._sent.get(name)
        }
        if changed:
            self._remote.mirror({name: files[name] for name in changed})
            self._sent |= changed

    def _has_final_checkpoint(self) -> bool:
        here = list_checkpoints(self._directory.checkpoints)
        return not here or here[-1].step in committed_uploads(self._directory, self._remote.url)

    def _report(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._on_error(message)


def small_files(directory: RunDirectory) -> dict[str, Path]:
    """Return the files that are mirrored, by their name in storage; checkpoints are not."""
    single = (directory.recipe, directory.summary, directory.evaluation, directory.examples)
    found = dict(run_files(directory))
    paths = [*single, *directory.path.glob("*.txt")]
    paths += [*directory.plots.rglob("*"), *directory.tokenizer.rglob("*")]
    found |= {path.relative_to(directory.path).as_posix(): path for path in paths if path.is_file()}
    completion = completion_path(directory.root, directory.id)
    if completion.exists():
        found[COMPLETION] = completion
    return found


def run_files(directory: RunDirectory) -> Mapping[str, Path]:
    """Return what of a run, besides a checkpoint, another machine needs to resume it."""
    single = (directory.record, directory.metrics, directory.timing, directory.samples)
    found = [path for path in single if path.exists()]
    found += sorted(directory.cursors.glob("*.json"))
    found += sorted(directory.trackers.glob("*/run.json"))
    return {path.relative_to(directory.path).as_posix(): path for path in found}


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
