"""Checkpoints: written behind the training loop, valid in one step, restored by what verifies.

Nothing here imports torch before tensors are copied or loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from llmforge.checkpoint.format import (
        Checkpoint,
        list_checkpoints,
        load_tensors,
        open_checkpoint,
        pin,
        read_metadata,
        read_trainer,
        unpin,
        verify,
    )
    from llmforge.checkpoint.frozen_weights import FrozenWeights
    from llmforge.checkpoint.lazy_tensors import StoredTensors
    from llmforge.checkpoint.manifest import Manifest, NewerFormatError
    from llmforge.checkpoint.publish import preflight_space
    from llmforge.checkpoint.rank_files import SelfDescription
    from llmforge.checkpoint.rank_group import Crew, CrewLostError
    from llmforge.checkpoint.restore import Restored, newest_valid, resolve, rewind
    from llmforge.checkpoint.retention import Retention
    from llmforge.checkpoint.snapshot import SaveRequest
    from llmforge.checkpoint.writer import CheckpointWriter, SavedCheckpoint
    from llmforge.progress import size_text

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "Crew",
    "CrewLostError",
    "FrozenWeights",
    "Manifest",
    "NewerFormatError",
    "Restored",
    "Retention",
    "SaveRequest",
    "SavedCheckpoint",
    "SelfDescription",
    "StoredTensors",
    "list_checkpoints",
    "load_tensors",
    "newest_valid",
    "open_checkpoint",
    "pin",
    "preflight_space",
    "read_metadata",
    "read_trainer",
    "resolve",
    "rewind",
    "size_text",
    "unpin",
    "verify",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Checkpoint": "llmforge.checkpoint.format",
        "CheckpointWriter": "llmforge.checkpoint.writer",
        "Crew": "llmforge.checkpoint.rank_group",
        "CrewLostError": "llmforge.checkpoint.rank_group",
        "FrozenWeights": "llmforge.checkpoint.frozen_weights",
        "Manifest": "llmforge.checkpoint.manifest",
        "NewerFormatError": "llmforge.checkpoint.manifest",
        "Restored": "llmforge.checkpoint.restore",
        "Retention": "llmforge.checkpoint.retention",
        "SaveRequest": "llmforge.checkpoint.snapshot",
        "SavedCheckpoint": "llmforge.checkpoint.writer",
        "SelfDescription": "llmforge.checkpoint.rank_files",
        "StoredTensors": "llmforge.checkpoint.lazy_tensors",
        "list_checkpoints": "llmforge.checkpoint.format",
        "load_tensors": "llmforge.checkpoint.format",
        "newest_valid": "llmforge.checkpoint.restore",
        "open_checkpoint": "llmforge.checkpoint.format",
        "pin": "llmforge.checkpoint.format",
        "preflight_space": "llmforge.checkpoint.publish",
        "read_metadata": "llmforge.checkpoint.format",
        "read_trainer": "llmforge.checkpoint.format",
        "resolve": "llmforge.checkpoint.restore",
        "rewind": "llmforge.checkpoint.restore",
        "size_text": "llmforge.progress",
        "unpin": "llmforge.checkpoint.format",
        "verify": "llmforge.checkpoint.format",
    },
)
