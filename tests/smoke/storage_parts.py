"""A run and its mirror: the way to storage, and what must hold of what is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forge_process import RUN_ID, ForgeProcess, Workplace
from servers import Seen

from llmforge.checkpoint import list_checkpoints, verify
from llmforge.remote import Commit, RemoteRun
from llmforge.rundir.uploads import UploadRecord, read_uploads

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def stored_at(url: str, **settings: str) -> dict[str, str]:
    """Return the settings of a run that is mirrored to ``url``."""
    return {
        "storage.url": f'"{url}"',
        **{name.replace("__", "."): text for name, text in settings.items()},
    }


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return what lets ``forge`` reach the S3 server at ``endpoint``."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}


def remote(url: str, *, attempt: int = 1, **options: Any) -> RemoteRun:
    """Return the place of the run that all tests here train."""
    return RemoteRun(url, options or None, RUN_ID, attempt, stall_seconds=20.0)


def hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a checkpoint by its name."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def steps(checkpoints: list[Path]) -> list[int]:
    """Return the steps of checkpoint directories."""
    return [int(path.name.removeprefix("step-")) for path in checkpoints]


def assert_all_committed(workplace: Workplace, run: RemoteRun) -> dict[int, Commit]:
    """Check that storage has every checkpoint that is here, with the same content; return all."""
    commits = {commit.step: commit for commit in run.commits()}
    assert {*steps(workplace.checkpoints)} <= {*commits}
    for path in workplace.checkpoints:
        commit = commits[steps([path])[0]]
        assert {name: entry.sha256 for name, entry in commit.files.items()} == hashes(path)
    for commit in commits.values():
        assert run.verify(commit, deep=True) == []
    return commits


def records(workplace: Workplace) -> Mapping[int, UploadRecord]:
    """Return the upload records of the run, of a process that may be at work."""
    return read_uploads(workplace.run)


def slow(seconds: float) -> Callable[[Seen], str]:
    """Return what makes a proxy take its time over every request."""

    def wait(_: Seen) -> str:
        time.sleep(seconds)
        return ""

    return wait


def under_way(workplace: Workplace, *, since: float = 0.0) -> Callable[[ForgeProcess], bool]:
    """Return the instant at which a courier started after ``since`` is sending a checkpoint."""
    later = since or time.time()

    def instant(_: ForgeProcess) -> bool:
        known = records(workplace).values()
        return any(item.state == "uploading" and item.updated > later for item in known)

    return instant


def committed(workplace: Workplace, *, least: int) -> Callable[[ForgeProcess], bool]:
    """Return the instant at which ``least`` checkpoints are known to be in storage."""

    def instant(_: ForgeProcess) -> bool:
        return sum(item.state == "committed" for item in records(workplace).values()) >= least

    return instant


def courier_pids(workplace: Workplace) -> list[int]:
    """Return the couriers of the run, orphans included."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"llmforge.courier" in command and str(workplace.run.path).encode() in command:
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait until ``condition`` holds.

    Raises:
        AssertionError: it does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.02)


def as_json(workplace: Workplace, *arguments: str, expect: int = 0) -> Any:
    """Return what a ``forge`` command prints with ``--json``."""
    return json.loads(workplace.forge_here(*arguments, "--json", expect=expect))


def lose_machine(workplace: Workplace) -> None:
    """Delete everything but recipe and data: runs, locks, completions, the cache."""
    for name in ("runs", "cache"):
        shutil.rmtree(workplace.path / name, ignore_errors=True)


def last_committed(run: RemoteRun) -> int:
    """Return the newest step in storage, 0 when there is none."""
    return max((commit.step for commit in run.commits()), default=0)


def newest_and_best_are_sound(workplace: Workplace) -> None:
    """Check that the newest and the best checkpoint are here and sound."""
    found = list_checkpoints(workplace.run.checkpoints)
    assert found
    best = [item for item in found if item.is_best]
    for item in (found[-1], *best[-1:]):
        assert verify(item.path) == []
