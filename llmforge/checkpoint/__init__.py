"""Checkpoints: written behind the training loop, valid in one step, restored by what verifies.

Nothing here imports torch before tensors are copied or loaded.
"""

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
