"""An index of the runs below a root: a table to filter and sort, fast with very many runs.

:func:`runs_table` returns plain dictionaries; :class:`RunsTable` is for several questions at once.
The index is a cache: the runs' own files are the truth, and it may be deleted at any time. When
which change is noticed is said in :mod:`llmforge.insight.runs_index.refresh`.
"""

from llmforge.insight.runs_index.table import RunsTable, newest_run, runs_table

__all__ = ["RunsTable", "newest_run", "runs_table"]
