"""Restore: the newest sound checkpoint, never a silent fresh start; addresses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from checkpoint_drafts import flip_bit, rewrite_manifest, save

from llmforge.checkpoint import (
    NewerFormatError,
    list_checkpoints,
    newest_valid,
    resolve,
    rewind,
)
from llmforge.errors import CheckpointError


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", 10)


def flip(checkpoint: Path) -> None:
    flip_bit(checkpoint / "model.safetensors", 100)


def lose_file(checkpoint: Path) -> None:
    (checkpoint / "trainer.json").unlink()


def lose_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def spoil_manifest(checkpoint: Path) -> None:
    flip_bit(checkpoint / "manifest.json", 20)


DAMAGES = [truncate, flip, lose_file, lose_manifest, spoil_manifest]


def test_the_highest_step_is_taken_and_not_what_a_pointer_says(tmp_path: Path) -> None:
    save(tmp_path, 100, 300, 200)
    (tmp_path / "last").write_text("step-00000100\n")
    restored = newest_valid(tmp_path)
    assert restored is not None
    assert restored.checkpoint.step == 300
    assert restored.warnings == ()
    assert (tmp_path / "last").read_text() == "step-00000300\n"


def test_nothing_there_is_nothing_to_restore(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_set_aside_with_one_warning(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 100, 200, 300)
    damage(tmp_path / "step-00000300")
    restored = newest_valid(tmp_path)
    assert restored is not None
    assert restored.checkpoint.step == 200
    [warning] = restored.warnings
    assert warning.startswith("checkpoint step-00000300 is damaged (")
    assert warning.endswith("set aside as step-00000300.corrupt-1, resuming from step-00000200")
    assert caplog.messages == [warning]
    assert (tmp_path / "last").read_text() == "step-00000200\n"
    assert newest_valid(tmp_path).warnings == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_damaged_is_refused_and_nothing_is_renamed(tmp_path: Path, damage) -> None:
    directory = tmp_path / "my-run" / "checkpoints"
    save(directory, 100, 200)
    for step in ("step-00000100", "step-00000200"):
        damage(directory / step)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="not starting over") as caught:
            newest_valid(directory)
        assert "forge runs clear my-run" in str(caught.value)
        assert "step-00000100: " in str(caught.value)
        assert "step-00000200: " in str(caught.value)


def test_only_checkpoints_set_aside_earlier_is_refused_too(tmp_path: Path) -> None:
    save(tmp_path, 100)
    (tmp_path / "step-00000100").rename(tmp_path / "step-00000100.corrupt-1")
    with pytest.raises(CheckpointError, match=r"step-00000100\.corrupt-1: set aside before"):
        newest_valid(tmp_path)


def test_damage_older_than_the_newest_sound_one_alarms_nobody(tmp_path: Path) -> None:
    save(tmp_path, 100, 200)
    lose_manifest(tmp_path / "step-00000100")
    assert newest_valid(tmp_path).warnings == ()


def test_a_checkpoint_of_a_later_version_is_neither_used_nor_touched(tmp_path: Path) -> None:
    save(tmp_path, 100, 200)
    rewrite_manifest(tmp_path / "step-00000200", format_version=9)
    with pytest.raises(NewerFormatError, match="format_version 9"):
        newest_valid(tmp_path)
    assert (tmp_path / "step-00000200").exists()


def test_what_a_killed_replacement_moved_away_is_restored(tmp_path: Path) -> None:
    save(tmp_path, 100)
    (tmp_path / "step-00000100").rename(tmp_path / ".old-step-00000100")
    assert newest_valid(tmp_path).checkpoint.step == 100


def test_addresses_find_their_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 100)
    save(tmp_path, 200, best=True)
    save(tmp_path, 300)
    found = [resolve(tmp_path, which).step for which in ("last", "best", 100, "100", "0300")]
    assert found == [300, 200, 100, 100, 300]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (150, "no checkpoint of step 150.*\n.*100, 200"),
        ("best", "no best checkpoint.*\n.*100, 200"),
        ("newest", "'newest' is not a checkpoint: write best, last or a step"),
    ],
)
def test_an_address_that_finds_nothing_says_what_there_is(
    tmp_path: Path, which: str | int, message: str
) -> None:
    save(tmp_path, 100, 200)
    with pytest.raises(CheckpointError, match=message):
        resolve(tmp_path, which)


def test_an_address_in_an_empty_run_says_when_there_will_be_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint\n.*checkpoint\.every"):
        resolve(tmp_path, "last")


@pytest.mark.parametrize("which", ["last", "best", 300])
@pytest.mark.parametrize("damage", [truncate, lose_file, lose_manifest, spoil_manifest])
def test_an_address_never_falls_back_silently(tmp_path: Path, which: str | int, damage) -> None:
    save(tmp_path, 200, 300, best=True)
    damage(tmp_path / "step-00000300")
    with pytest.raises(CheckpointError, match="step-00000300"):
        resolve(tmp_path, which)
    assert (tmp_path / "step-00000300").exists()


def test_rewinding_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    save(tmp_path, 100)
    save(tmp_path, 200, 300, best=True)
    assert [path.name for path in rewind(tmp_path, 200)] == ["step-00000300.superseded-1"]
    assert [item.step for item in list_checkpoints(tmp_path)] == [100, 200]
    assert (tmp_path / "best").read_text() == (tmp_path / "last").read_text() == "step-00000200\n"
    assert newest_valid(tmp_path).warnings == ()
    shutil.rmtree(tmp_path / "step-00000300.superseded-1")
