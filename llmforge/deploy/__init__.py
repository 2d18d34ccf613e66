"""Deploying models: to a hub, a registry or a folder in storage, whole or not at all."""

from llmforge.deploy.deployment import Outcome, Plan, deploy, preview
from llmforge.deploy.source import ExportChoices, Source, find_source
from llmforge.deploy.targets import open_target

__all__ = [
    "ExportChoices",
    "Outcome",
    "Plan",
    "Source",
    "deploy",
    "find_source",
    "open_target",
    "preview",
]
