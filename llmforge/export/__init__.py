"""Checkpoints in forms that others read."""

from llmforge.export.weights import export_merged, export_weights

__all__ = ["export_merged", "export_weights"]
