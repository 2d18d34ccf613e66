"""Runs in storage: what is committed there exists, whatever was killed, stalled or lied on the way.

No torch is imported here.
"""

from llmforge.remote.archive import missing_package
from llmforge.remote.commits import Commit, new_token
from llmforge.remote.connection import Cancelled, Connections, Limiter, open_storage
from llmforge.remote.stored_attempt import RemoteRun
from llmforge.remote.stored_runs import RemoteEntry, list_runs, recipe_remote, storage_problems

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
