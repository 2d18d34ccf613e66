"""Publishing a folder: leftovers of killed processes, places that do not take it, addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from llmforge.errors import CheckpointError, UsageError
from llmforge.export.publish import MARK, published, require_place
from llmforge.plugins import address_problem


def dead_process() -> int:
    """Return the id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def write(target: Path, text: str) -> None:
    with published(target) as work:
        (work / MARK).write_text(text)


def test_what_killed_exports_left_is_removed_and_other_folders_stay(tmp_path: Path) -> None:
    dead = dead_process()
    left = [tmp_path / f".out.{dead}", tmp_path / f".out.{dead}.old"]
    alive = tmp_path / f".out.{os.getppid()}"
    others = [tmp_path / f".other.{dead}", tmp_path / ".out.notes", alive]
    for folder in (tmp_path / "out", *left, *others):
        folder.mkdir()
        (folder / "file").write_text("x")
    write(tmp_path / "out", "new")
    assert not any(folder.exists() for folder in left)
    assert all((folder / "file").exists() for folder in others)
    assert (tmp_path / "out" / MARK).read_text() == "new"


def test_a_folder_that_a_killed_export_had_moved_away_is_put_back(tmp_path: Path) -> None:
    old = tmp_path / f".out.{dead_process()}.old"
    old.mkdir()
    (old / MARK).write_text("old")
    with pytest.raises(CheckpointError), published(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "out" / MARK).read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_disk_that_does_not_take_it_is_named(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught, published(tmp_path / "out") as work:
        (work / "half").write_text("x")
        raise error
    assert caught.value.message.startswith(f"{tmp_path / 'out'} cannot be written: ")
    assert "No space left" in caught.value.message
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_never_said_to_be_replaceable(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("x")
    (tmp_path / "file").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not a folder that was exported"):
            require_place(tmp_path / "photos", overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        require_place(tmp_path / "file" / "out", overwrite=False)


@pytest.mark.parametrize(
    ("address", "message", "remedy"),
    [
        ("memory://x", "gone when the command ends", "lasts"),
        ("file://x", "not the URL of a folder", "file:///"),
        ("s4://bucket/x", "not in a storage that is known", "s3://bucket/models/tiny"),
        ("nowhere123://x", "not in a storage that is known", "s3://bucket/models/tiny"),
    ],
)
def test_a_place_that_keeps_nothing_is_refused_at_once(
    address: str, message: str, remedy: str
) -> None:
    problem = address_problem(address)
    assert message in problem[0]
    assert remedy in problem[1]


@pytest.mark.parametrize("address", ["s3://bucket/x", "gs://bucket/x", "file:///srv/x"])
def test_a_storage_is_taken(address: str) -> None:
    assert address_problem(address) == ("", "")
