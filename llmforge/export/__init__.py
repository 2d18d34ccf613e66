"""Checkpoints in forms that others read."""

from llmforge.export.folder import SHARD_SIZE, Exported, Layout, export_folder, parse_size
from llmforge.export.weights import export_merged, export_weights

__all__ = [
    "SHARD_SIZE",
    "Exported",
    "Layout",
    "export_folder",
    "export_merged",
    "export_weights",
    "parse_size",
]
