"""Checkpoints in forms that others read."""

from llmforge.export.folder import Exported, Layout, export_folder
from llmforge.export.weights import export_merged, export_weights

__all__ = ["Exported", "Layout", "export_folder", "export_merged", "export_weights"]
