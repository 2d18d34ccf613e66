"""Checkpoints in forms that others read."""

from llmforge.export.weights import export_weights

__all__ = ["export_weights"]
