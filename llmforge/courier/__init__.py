"""The helper process between a run and its trackers; the training process only appends."""

from llmforge.courier.client import Courier
from llmforge.courier.journal import JournalWriter, cut_torn_line, read_events

__all__ = ["Courier", "JournalWriter", "cut_torn_line", "read_events"]
