"""A small run with checkpoints and a storage beside it, for the tests of the courier's uploads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_drafts import save

from llmforge.courier.checkpoint_uploads import Uploader
from llmforge.remote import RemoteRun
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord


@dataclass
class Told:
    """What an uploader told: records as they were, and errors."""

    states: list[tuple[int, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def change(self, record: UploadRecord) -> None:
        """Take a record."""
        self.states.append((record.step, "cleaned" if record.cleaned else record.state))

    def of(self, step: int) -> list[str]:
        """Return the states of one step."""
        return [state for told, state in self.states if told == step]


def make_run(path: Path, *steps: int) -> RunDirectory:
    """Return a run with a record and checkpoints of ``steps``."""
    directory = RunDirectory(path / "runs" / "my-run")
    directory.path.mkdir(parents=True)
    directory.record.write_text('{"run_id": "my-run", "state": "running"}')
    directory.metrics.write_text('{"step": 1}\n')
    save(directory.checkpoints, *steps)
    return directory


def make_remote(path: Path) -> RemoteRun:
    """Return the run's place in a folder."""
    return RemoteRun(f"file://{path}/storage", None, "my-run", 1, stall_seconds=20.0)


def uploader(
    directory: RunDirectory, remote: RemoteRun, told: Told, *, only: frozenset[int] | None = None
) -> Uploader:
    """Return an uploader that is not started."""
    return Uploader(
        directory,
        remote,
        archive="none",
        on_change=told.change,
        on_error=told.errors.append,
        only=only,
    )


def upload_all(directory: RunDirectory, remote: RemoteRun) -> Told:
    """Upload until nothing is left to try; return what was told."""
    told = Told()
    thread = uploader(directory, remote, told)
    thread.start()
    thread.close()
    thread.join(30)
    assert not thread.is_alive()
    return told
