"""Damaged checkpoints: one clear warning and the same result, or a refusal to start over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace


def truncate(checkpoint: Path) -> None:
    """Cut the weights in half."""
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def flip_a_bit(checkpoint: Path) -> None:
    """Change one bit in the middle of the optimizer's state."""
    file = checkpoint / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove_a_file(checkpoint: Path) -> None:
    """Delete the state of the loop."""
    (checkpoint / "trainer.json").unlink()


def tear_the_manifest(checkpoint: Path) -> None:
    """Leave half a manifest."""
    manifest = checkpoint / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove_a_file, tear_the_manifest])
def test_a_damaged_newest_checkpoint_costs_a_warning_and_nothing_else(
    tmp_path: Path, halfway: Workplace, reference: Reference, damage: Callable[[Path], None]
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    damage(workplace.checkpoints[-1])

    output = workplace.train_here()

    warnings = [line for line in output.splitlines() if "is damaged" in line]
    assert len(warnings) == 1, output
    assert "step-00000031" in warnings[0]
    assert "resuming from step-00000030" in warnings[0]
    assert (workplace.run.checkpoints / "step-00000031.corrupt-1").is_dir()
    assert workplace.result() == reference("fp32").result()
    assert any("damaged" in notice for notice in workplace.record["notices"])


def test_no_sound_checkpoint_is_a_refusal_that_names_the_way_out(
    tmp_path: Path, halfway: Workplace
) -> None:
    workplace = halfway.copy(tmp_path / "copy")
    for checkpoint in workplace.checkpoints:
        flip_a_bit(checkpoint)

    output = workplace.train_here(expect=1)

    assert "Traceback" not in output
    assert "not starting over" in output
    assert "forge runs clear tiny" in output
    assert workplace.record["state"] == "failed"
    # Nothing was touched: a mended file system can still bring the run back.
    assert len(workplace.checkpoints) == 2
    assert workplace.rows[-1]["step"] == 30

    workplace.forge_here("runs", "clear", "tiny", "--yes")
    workplace.train_here("--set", "train.stop_at=3")
    assert workplace.record["attempt"] == 2
