"""The helper process between a run and its trackers and storage; training only appends."""

from llmforge.courier.client import COURIER, STORAGE, Courier
from llmforge.courier.deliver_later import Delivered, pending_events, sync_trackers
from llmforge.courier.journal import JournalWriter, cut_torn_line, read_events
from llmforge.courier.lock import has_courier
from llmforge.courier.upload_queue import (
    BEGUN,
    committed_uploads,
    forget_uploads,
    pending_uploads,
    settle_superseded,
)

__all__ = [
    "BEGUN",
    "COURIER",
    "STORAGE",
    "Courier",
    "Delivered",
    "JournalWriter",
    "committed_uploads",
    "cut_torn_line",
    "forget_uploads",
    "has_courier",
    "pending_events",
    "pending_uploads",
    "read_events",
    "settle_superseded",
    "sync_trackers",
]
