"""Small checkpoints for the tests of llmforge.checkpoint, made without torch."""

from __future__ import annotations

import json
from pathlib import Path

from llmforge.checkpoint.format import Checkpoint
from llmforge.checkpoint.hashed_files import write_file
from llmforge.checkpoint.manifest import seal
from llmforge.checkpoint.publish import Draft, FileWriter, publish


def content(data: bytes) -> FileWriter:
    """Return a writer of ``data``."""
    return lambda path: write_file(path, [data])


def draft(step: int, *, weights: bytes = b"", best: bool = False, trainer: bytes = b"{}") -> Draft:
    """Return a checkpoint with a kilobyte of ``weights`` and a tokenizer file."""
    return Draft(
        step=step,
        recipe_hash="0123",
        is_best=best,
        files={
            "model.safetensors": content((weights or b"%d" % step) * 1024),
            "trainer.json": content(trainer),
            "tokenizer/vocab.json": content(b"[]"),
        },
    )


def save(directory: Path, *steps: int, best: bool = False) -> list[Checkpoint]:
    """Publish a small checkpoint for each step."""
    return [publish(directory, draft=draft(step, best=best)) for step in steps]


def flip_bit(path: Path, position: int = -1) -> None:
    """Flip one bit of ``path``."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite_manifest(checkpoint: Path, **changes: object) -> None:
    """Change the manifest and seal it again."""
    path = checkpoint / "manifest.json"
    body = json.loads(path.read_text())
    del body["seal"]
    body |= changes
    path.write_text(json.dumps({**body, "seal": seal(body)}))
