"""Manifest, verification and reading: damage is found and named."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_drafts import content, draft, flip_bit, rewrite_manifest, save

from llmforge.checkpoint import (
    list_checkpoints,
    load_tensors,
    open_checkpoint,
    read_trainer,
    verify,
)
from llmforge.checkpoint.host_tensors import HostBuffer
from llmforge.checkpoint.manifest import (
    FORMAT_VERSION,
    Manifest,
    NewerFormatError,
    encode_manifest,
    read_manifest,
)
from llmforge.checkpoint.publish import Draft, publish
from llmforge.errors import CheckpointError


def test_a_sound_checkpoint_has_nothing_wrong(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    assert verify(checkpoint.path) == []
    assert open_checkpoint(checkpoint.path) == checkpoint


def test_the_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest(
        step=7,
        recipe_hash="ab",
        world_size=2,
        parent=5,
        created="2026-11-21T00:00:00+00:00",
        is_best=True,
        files={},
    )
    (tmp_path / "manifest.json").write_bytes(encode_manifest(manifest))
    assert read_manifest(tmp_path) == manifest


def test_every_flipped_bit_of_every_file_is_found(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    dice = random.Random(0)
    for path in checkpoint.path.rglob("*"):
        if path.is_dir():
            continue
        good = path.read_bytes()
        for _ in range(30):
            data = bytearray(good)
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            meaningless = path.name == "manifest.json" and bytes(data).split() == good.split()
            assert meaningless or verify(checkpoint.path), path.name
        path.write_bytes(good)
    assert verify(checkpoint.path) == []


def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    os.truncate(checkpoint.path / "model.safetensors", 1000)
    expected = ["model.safetensors has 1000 bytes instead of 3072"]
    assert verify(checkpoint.path) == verify(checkpoint.path, hashes=False) == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    (checkpoint.path / "tokenizer" / "vocab.json").unlink()
    assert verify(checkpoint.path) == ["tokenizer/vocab.json is missing"]


def test_a_missing_or_truncated_manifest_is_named(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    manifest = checkpoint.path / "manifest.json"
    for size in range(0, manifest.stat().st_size - 2, 10):
        manifest.write_bytes(manifest.read_bytes()[:size])
        assert "manifest" in verify(checkpoint.path)[0]
        rewrite = encode_manifest(checkpoint.manifest)
        manifest.write_bytes(rewrite)
    manifest.unlink()
    assert verify(checkpoint.path) == [f"{manifest} is missing"]


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b"{}", b'{"seal": 1}', b"\xff\xfe"])
def test_other_json_is_no_manifest(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_later_format_is_told_from_damage(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    rewrite_manifest(checkpoint.path, format_version=FORMAT_VERSION + 1, news="unknown")
    told = f"format_version {FORMAT_VERSION + 1}.*reads up to {FORMAT_VERSION}"
    with pytest.raises(NewerFormatError, match=told) as caught:
        read_manifest(checkpoint.path)
    assert "install the llmforge that wrote it" in str(caught.value)


def test_a_directory_with_the_manifest_of_another_step_is_wrong(tmp_path: Path) -> None:
    [checkpoint] = save(tmp_path, 100)
    moved = checkpoint.path.rename(tmp_path / "step-00000200")
    assert verify(moved) == ["step-00000200 holds a manifest of step 100"]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "tokenizer/../../outside"])
def test_a_manifest_cannot_name_files_outside_its_checkpoint(tmp_path: Path, name: str) -> None:
    [checkpoint] = save(tmp_path, 100)
    rewrite_manifest(checkpoint.path, files={name: {"size": 0, "sha256": ""}})
    assert "outside its checkpoint" in verify(checkpoint.path)[0]


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_file_without_permission_is_an_error_and_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A fault put in, since root may read everything: opening one file is refused."""
    [checkpoint] = save(tmp_path, 100)
    real = io.open

    def refuse(path: Path, *args: object, **kwargs: object) -> object:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: Permission denied\n.*readable for"):
        verify(checkpoint.path)


def test_only_directories_named_after_a_step_are_listed_in_order(tmp_path: Path) -> None:
    save(tmp_path, 300, 20, 100)
    for name in ("step-00000400.corrupt-1", ".tmp-step-00000500-1", "step-x", "step-5"):
        (tmp_path / name).mkdir()
    assert [item.step for item in list_checkpoints(tmp_path)] == [20, 100, 300]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_unreadable_trainer_state_is_a_clear_error(tmp_path: Path) -> None:
    checkpoint = publish(tmp_path, draft=draft(1, trainer=b'{"samples": 3}'))
    assert read_trainer(checkpoint.path) == {"samples": 3}
    for text in ("[1]", "{"):
        (checkpoint.path / "trainer.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"trainer\.json cannot be read"):
            read_trainer(checkpoint.path)


def tensor_checkpoint(directory: Path) -> Path:
    buffer = HostBuffer()
    buffer.copy_from({"w": torch.arange(6.0), "n": torch.tensor(3)})
    files = {"model.safetensors": buffer.write, "trainer.json": content(b"{}")}
    return publish(directory, draft=Draft(step=1, recipe_hash="", files=files)).path


def test_tensors_are_loaded_by_name(tmp_path: Path) -> None:
    tensors = load_tensors(tensor_checkpoint(tmp_path), "model")
    assert torch.equal(tensors["w"], torch.arange(6.0))
    assert tensors["n"].item() == 3


def test_what_is_done_to_loaded_tensors_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tensor_checkpoint(tmp_path)
    for tensor in load_tensors(path, "model").values():
        tensor.zero_()
    assert verify(path) == []


def test_altered_tensors_are_not_loaded(tmp_path: Path) -> None:
    path = tensor_checkpoint(tmp_path)
    flip_bit(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered"):
        load_tensors(path, "model")


def test_a_part_that_was_not_saved_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no optimizer\.safetensors"):
        load_tensors(tensor_checkpoint(tmp_path), "optimizer")


def test_a_broken_header_is_a_clear_error_even_where_hashes_are_not_compared(
    tmp_path: Path,
) -> None:
    path = tensor_checkpoint(tmp_path) / "model.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    dice = random.Random(1)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        data[dice.randrange(header)] = dice.randrange(256)
        path.write_bytes(data)
        try:
            load_tensors(path.parent, "model", verified=True)
        except CheckpointError:
            refused += 1
    assert refused > 150


def test_looking_at_checkpoints_imports_no_torch(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    script = (
        "import sys, pathlib\n"
        "from llmforge.checkpoint import *\n"
        f"d = pathlib.Path({str(tmp_path)!r})\n"
        "assert newest_valid(d).checkpoint.step == resolve(d, 'last').step == 2\n"
        "assert len(list_checkpoints(d)) == 2 and not verify(resolve(d, 1).path)\n"
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
