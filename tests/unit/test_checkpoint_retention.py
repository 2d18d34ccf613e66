"""Retention: what may go, and that nothing else does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from checkpoint_drafts import draft, flip_bit, save

from llmforge.checkpoint import Checkpoint, Manifest, Retention, list_checkpoints, pin
from llmforge.checkpoint.publish import publish
from llmforge.checkpoint.retention import apply_retention, to_delete


def fake(step: int) -> Checkpoint:
    manifest = Manifest(
        step=step, recipe_hash="", world_size=1, parent=None, created="", is_best=False, files={}
    )
    return Checkpoint(step, Path(f"step-{step:08d}"), manifest)


def steps(checkpoints: list[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints]


def test_the_oldest_go_first() -> None:
    gone = to_delete(
        [fake(30), fake(10), fake(40), fake(20)],
        retention=Retention(keep_last=2, keep_best=1),
        best_steps=[],
    )
    assert steps(gone) == [10, 20]


def test_best_last_and_pinned_stay_whatever_the_numbers() -> None:
    everything = [fake(step) for step in range(1, 8)]
    for keep_last, keep_best, best, pinned in itertools.product(
        (0, 1, 3), (0, 1, 2), ([], [2], [2, 3], [1, 7]), ((), (4,), (1, 5))
    ):
        retention = Retention(keep_last=keep_last, keep_best=keep_best)
        gone = set(
            steps(to_delete(everything, retention=retention, best_steps=best, pinned=pinned))
        )
        kept = set(range(1, 8)) - gone
        assert 7 in kept
        assert set(best[-1:]) <= kept
        assert set(pinned) <= kept
        assert len(kept) <= max(keep_last, 1) + max(keep_best, 1) + len(pinned)


def test_several_best_are_kept_the_latest_first() -> None:
    gone = to_delete(
        [fake(step) for step in range(1, 7)],
        retention=Retention(keep_last=1, keep_best=2),
        best_steps=[1, 2, 4],
    )
    assert steps(gone) == [1, 3, 5]


def test_what_is_safe_elsewhere_goes_but_never_the_newest_the_best_or_what_is_pinned() -> None:
    everything = [fake(step) for step in range(1, 8)]
    retention = Retention(keep_last=4, keep_best=2)

    def gone(elsewhere: set[int], pinned: tuple[int, ...] = ()) -> list[int]:
        found = to_delete(
            everything,
            retention=retention,
            best_steps=[1, 3, 5],
            pinned=pinned,
            elsewhere=elsewhere,
        )
        return steps(found)

    assert gone(set()) == [1, 2]
    assert gone({1, 2}) == [1, 2]
    assert gone({4, 6}) == [1, 2, 4, 6]
    assert gone({*range(1, 8)}) == [1, 2, 3, 4, 6]
    assert gone({*range(1, 8)}, pinned=(2, 6)) == [1, 3, 4]


def test_the_marks_on_disk_decide(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    save(tmp_path, 3, 4, best=True)
    save(tmp_path, 5, 6, 7)
    pin(tmp_path / "step-00000001")
    deleted = apply_retention(
        tmp_path, retention=Retention(keep_last=1, keep_best=1), protected={6}
    )
    assert deleted == [2, 3, 5]
    assert steps(list_checkpoints(tmp_path)) == [1, 4, 6, 7]


def test_damaged_checkpoints_are_left_to_restore(tmp_path: Path) -> None:
    save(tmp_path, 1)
    flip_bit(tmp_path / "step-00000001" / "manifest.json", 20)
    save(tmp_path, 2, 3)
    apply_retention(tmp_path, retention=Retention(keep_last=1, keep_best=1))
    assert (tmp_path / "step-00000001").exists()
    assert not (tmp_path / "step-00000002").exists()


def test_a_checkpoint_that_cannot_be_deleted_is_logged_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault put in: the rename that begins a deletion fails."""
    for step in (1, 2):
        publish(tmp_path, draft=draft(step))

    def fails(self: Path, target: Path) -> Path:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        assert apply_retention(tmp_path, retention=Retention(keep_last=1)) == []
    assert "step-00000001 could not be deleted" in caplog.text
    assert steps(list_checkpoints(tmp_path)) == [1, 2]
