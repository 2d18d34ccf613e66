"""The run directory: layout, record, completion, lock, and finding runs."""

from llmforge.rundir.completion import (
    Completion,
    read_completion,
    withdraw_completion,
    write_completion,
)
from llmforge.rundir.index import (
    RunEntry,
    clear_run,
    completion_of,
    entry_of,
    find_run,
    has_record,
    list_runs,
    next_attempt,
)
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.lock import RunLock, is_locked
from llmforge.rundir.record import Recorder, RunRecord, current_state, read_record, write_record

__all__ = [
    "Completion",
    "Recorder",
    "RunDirectory",
    "RunEntry",
    "RunLock",
    "RunRecord",
    "clear_run",
    "completion_of",
    "current_state",
    "entry_of",
    "find_run",
    "has_record",
    "is_locked",
    "list_runs",
    "next_attempt",
    "read_completion",
    "read_record",
    "withdraw_completion",
    "write_completion",
    "write_record",
]
