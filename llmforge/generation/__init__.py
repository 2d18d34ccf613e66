"""Generating text from checkpoints: finding one, loading it without a training engine, sampling.

Nothing here imports torch before a model is loaded.
"""

from __future__ import annotations

from llmforge.generation.address import locate
from llmforge.generation.load import (
    LoadedModel,
    load_checkpoint,
    load_legacy_weights,
    open_checkpoint,
)
from llmforge.generation.text import build_generator, changed_options, generate_texts

__all__ = [
    "LoadedModel",
    "build_generator",
    "changed_options",
    "generate_texts",
    "load_checkpoint",
    "load_legacy_weights",
    "locate",
    "open_checkpoint",
]
