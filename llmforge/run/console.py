"""The consoles people see; everything that prints beside a live display must share them."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(maxsize=1)
def console() -> Console:
    """Return the console on standard output; it prints text as it is.

    Piped text is never wrapped, so that paths and ids in it stay whole.
    """
    return _console(stderr=False, wrap=sys.stdout.isatty())


@lru_cache(maxsize=1)
def error_console() -> Console:
    """Return the console on standard error; see :func:`console`."""
    return _console(stderr=True, wrap=sys.stderr.isatty())


def _console(*, stderr: bool, wrap: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=not wrap)
