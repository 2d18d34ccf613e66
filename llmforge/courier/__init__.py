"""The helper process between a run and its trackers and storage; training only appends."""

from llmforge.courier.client import STORAGE, Courier
from llmforge.courier.journal import JournalWriter, cut_torn_line, read_events
from llmforge.courier.sync import Delivered, pending_events, sync_trackers
from llmforge.courier.uploader import committed_uploads, pending_uploads

__all__ = [
    "STORAGE",
    "Courier",
    "Delivered",
    "JournalWriter",
    "committed_uploads",
    "cut_torn_line",
    "pending_events",
    "pending_uploads",
    "read_events",
    "sync_trackers",
]
