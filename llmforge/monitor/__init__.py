"""Watching runs while they train: what is new in their files, and how they stand now.

Nothing here imports torch, and nothing writes to a run.
"""

from llmforge.monitor.curve import Curve
from llmforge.monitor.follower import RunFollower
from llmforge.monitor.snapshot import Best, CheckpointAge, Happening, Snapshot, Upload
from llmforge.monitor.watchlist import Watchlist

__all__ = [
    "Best",
    "CheckpointAge",
    "Curve",
    "Happening",
    "RunFollower",
    "Snapshot",
    "Upload",
    "Watchlist",
]
