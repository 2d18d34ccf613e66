"""The helper process between a run and its trackers; the training process only appends."""

from llmforge.courier.client import Courier
from llmforge.courier.journal import JournalWriter, cut_torn_line, read_events
from llmforge.courier.sync import Delivered, pending_events, sync_trackers

__all__ = [
    "Courier",
    "Delivered",
    "JournalWriter",
    "cut_torn_line",
    "pending_events",
    "read_events",
    "sync_trackers",
]
