"""Runs in storage: what is committed there exists, whatever was killed, stalled or lied on the way.

No torch is imported here.
"""

from llmforge.remote.archive import missing_package
from llmforge.remote.commits import Commit, new_token
from llmforge.remote.connection import Cancelled, Connections, Limiter, open_storage
from llmforge.remote.runs import RemoteEntry, list_runs, recipe_remote, storage_problems
from llmforge.remote.stored_attempt import RemoteRun

__all__ = [
    "Cancelled",
    "Commit",
    "Connections",
    "Limiter",
    "RemoteEntry",
    "RemoteRun",
    "list_runs",
    "missing_package",
    "new_token",
    "open_storage",
    "recipe_remote",
    "storage_problems",
]
