"""Publishing: all or nothing, also over an earlier checkpoint of the same step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_drafts import content, draft, flip_bit, save

from llmforge.checkpoint import (
    list_checkpoints,
    newest_valid,
    pin,
    preflight_space,
    read_trainer,
    unpin,
    verify,
)
from llmforge.checkpoint.publish import (
    Draft,
    delete,
    publish,
    recover,
    refresh_pointers,
    set_aside,
)
from llmforge.errors import CheckpointError


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_checkpoint_has_all_files_and_the_pointers_name_it(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    checkpoint = publish(directory, draft=draft(100, best=True))
    assert names(checkpoint.path) == {
        "manifest.json",
        "model.safetensors",
        "trainer.json",
        "tokenizer",
    }
    assert names(directory) == {"step-00000100", "last", "best"}
    assert (directory / "last").read_text() == (directory / "best").read_text() == "step-00000100\n"
    assert list_checkpoints(directory) == [checkpoint]


def test_the_pointers_follow_the_newest_and_the_newest_best(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert not (tmp_path / "best").exists()
    save(tmp_path, 2, best=True)
    save(tmp_path, 3)
    assert (tmp_path / "last").read_text() == "step-00000003\n"
    assert (tmp_path / "best").read_text() == "step-00000002\n"
    shutil.rmtree(tmp_path / "step-00000002")
    refresh_pointers(tmp_path)
    assert not (tmp_path / "best").exists()


def test_a_write_that_fails_leaves_nothing_behind_and_touches_nothing(tmp_path: Path) -> None:
    save(tmp_path, 100)
    before = names(tmp_path)

    def fails(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(5, "Input/output error")

    broken = Draft(step=200, recipe_hash="", files={"a": content(b"x"), "b": fails})
    with pytest.raises(CheckpointError, match=r"step 200.*Input/output error"):
        publish(tmp_path, draft=broken)
    assert names(tmp_path) == before
    assert verify(tmp_path / "step-00000100") == []


def test_a_limit_on_file_size_is_reported_as_lack_of_room(tmp_path: Path) -> None:
    save(tmp_path, 100)
    script = (
        "import pathlib, resource\n"
        "from llmforge.checkpoint.hashed_files import write_file\n"
        "from llmforge.checkpoint.publish import Draft, publish\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "big = lambda path: write_file(path, [bytes(100_000)])\n"
        "small = lambda path: write_file(path, [bytes(10)])\n"
        f"publish(pathlib.Path({str(tmp_path)!r}), draft=Draft(step=200, recipe_hash='',"
        " files={'small': small, 'big': big}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "CheckpointError: no room for the checkpoint of step 200" in done.stderr
    assert "lower checkpoint.keep_last" in done.stderr
    assert names(tmp_path) == {"step-00000100", "last"}


def test_a_full_device_is_reported_as_lack_of_room(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(CheckpointError, match=r"no room .* No space left on device .* free\)"):
        publish(tmp_path, draft=Draft(step=1, recipe_hash="", files={"a": full}))
    assert names(tmp_path) == set()


def test_the_same_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    publish(tmp_path, draft=draft(100, trainer=b'{"pending": true}'))
    again = publish(tmp_path, draft=draft(100, trainer=b'{"pending": false}'))
    assert read_trainer(again.path) == {"pending": False}
    assert verify(again.path) == []
    assert names(tmp_path) == {"step-00000100", "last"}


def test_the_best_stays_the_best_when_the_same_weights_are_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 100, best=True)
    assert publish(tmp_path, draft=draft(100)).is_best
    assert not publish(tmp_path, draft=draft(100, weights=b"other")).is_best


def test_a_pin_outlives_the_replacement(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    pin(checkpoint.path)
    assert publish(tmp_path, draft=draft(100, weights=b"other")).is_pinned
    unpin(checkpoint.path)
    assert not checkpoint.is_pinned


def test_a_damaged_checkpoint_of_the_same_step_is_set_aside(tmp_path: Path) -> None:
    for _ in range(2):
        [checkpoint] = save(tmp_path, 100)
        flip_bit(checkpoint.path / "model.safetensors")
    [checkpoint] = save(tmp_path, 100)
    assert verify(checkpoint.path) == []
    assert names(tmp_path) == {
        "step-00000100",
        "step-00000100.corrupt-1",
        "step-00000100.corrupt-2",
        "last",
    }


class Killed(BaseException):
    """Stands for the end of the process; nothing after it has an effect on the disk."""


def publish_until(directory: Path, calls: int, *, patch: pytest.MonkeyPatch) -> bool:
    """Replace step 100, "killed" before the given rename, fsync or deletion; return if it ended."""
    left = iter(range(calls))

    def dying(real):
        def call(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return real(*args, **kwargs)

        return call

    with patch.context() as faults:
        faults.setattr(Path, "rename", dying(Path.rename))
        faults.setattr(os, "fsync", dying(os.fsync))
        faults.setattr(shutil, "rmtree", dying(shutil.rmtree))
        try:
            publish(directory, draft=draft(100, trainer=b'{"n": 2}'))
        except Killed:
            return False
    return True


def test_a_stop_before_any_rename_or_sync_leaves_a_sound_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: the replacement of a step ends at each call that changes the disk."""
    finished = False
    stops = 0
    while not finished:
        directory = tmp_path / str(stops)
        publish(directory, draft=draft(100, trainer=b'{"n": 1}'))
        finished = publish_until(directory, stops, patch=monkeypatch)
        restored = newest_valid(directory)
        assert restored is not None, stops
        assert restored.warnings == ()
        assert read_trainer(restored.checkpoint.path)["n"] in ((2,) if finished else (1, 2))
        assert names(directory) == {"step-00000100", "last"}
        stops += 1
    assert stops > 8


def test_everything_is_forced_to_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(f"sync {path.name}")
        real_sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        events.append(f"rename to {target.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    publish(tmp_path, draft=draft(100))
    place = events.index("rename to step-00000100")
    temporary = f".tmp-step-00000100-{os.getpid()}"
    assert set(events[: place - 2]) == {
        "sync model.safetensors",
        "sync trainer.json",
        "sync vocab.json",
        "sync tokenizer",
    }
    assert events[place - 2 : place] == ["sync manifest.json", f"sync {temporary}"]
    assert events[place + 1] == f"sync {tmp_path.name}"
    assert events[-1] == f"sync {tmp_path.name}"  # After the pointer was replaced.


def test_recover_puts_back_what_was_moved_away_and_removes_the_rest(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    checkpoint.path.rename(tmp_path / ".old-step-00000100")
    shutil.copytree(tmp_path / ".old-step-00000100", tmp_path / ".tmp-step-00000200-4711")
    (tmp_path / ".del-step-00000001").mkdir()
    (tmp_path / ".last.4711.abcd").write_text("step-")
    recover(tmp_path)
    assert names(tmp_path) == {"step-00000100", "last"}
    assert verify(checkpoint.path) == []
    recover(tmp_path / "nowhere")


def test_recover_prefers_the_replacement_that_is_in_place(tmp_path: Path) -> None:
    publish(tmp_path, draft=draft(100, trainer=b'{"n": 1}'))
    shutil.copytree(tmp_path / "step-00000100", tmp_path / ".old-step-00000100")
    publish(tmp_path, draft=draft(100, trainer=b'{"n": 2}'))
    recover(tmp_path)
    assert read_trainer(tmp_path / "step-00000100") == {"n": 2}
    assert names(tmp_path) == {"step-00000100", "last"}


def test_a_deletion_that_stops_half_way_leaves_no_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: removing the files fails after the directory was taken away."""
    save(tmp_path, 100, 200)

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fails)
        with pytest.raises(OSError, match="Input/output"):
            delete(tmp_path / "step-00000100")
    assert [item.step for item in list_checkpoints(tmp_path)] == [200]
    recover(tmp_path)
    assert names(tmp_path) == {"step-00000200", "last"}


def test_setting_aside_counts_up(tmp_path: Path) -> None:
    for number in (1, 2):
        [checkpoint] = save(tmp_path, 100)
        assert set_aside(checkpoint.path, "corrupt").name == f"step-00000100.corrupt-{number}"


def test_preflight_names_needed_and_free_space(tmp_path: Path) -> None:
    preflight_space(tmp_path / "not" / "yet", 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(CheckpointError, match=r"[TGM]B are needed, .*B are free") as caught:
        preflight_space(tmp_path / "not" / "yet", 2 * free)
    assert "run.root" in str(caught.value)
