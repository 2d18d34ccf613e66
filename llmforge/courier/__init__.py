"""The helper process between a run and its trackers and storage; training only appends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
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

__getattr__ = lazy_exports(
    __name__,
    {
        "BEGUN": "llmforge.courier.upload_queue",
        "COURIER": "llmforge.courier.client",
        "Courier": "llmforge.courier.client",
        "Delivered": "llmforge.courier.deliver_later",
        "JournalWriter": "llmforge.courier.journal",
        "STORAGE": "llmforge.courier.client",
        "committed_uploads": "llmforge.courier.upload_queue",
        "cut_torn_line": "llmforge.courier.journal",
        "forget_uploads": "llmforge.courier.upload_queue",
        "has_courier": "llmforge.courier.lock",
        "pending_events": "llmforge.courier.deliver_later",
        "pending_uploads": "llmforge.courier.upload_queue",
        "read_events": "llmforge.courier.journal",
        "settle_superseded": "llmforge.courier.upload_queue",
        "sync_trackers": "llmforge.courier.deliver_later",
    },
)
