"""The consoles people see; everything that prints beside a live display must share them."""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from llmforge.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(maxsize=1)
def console() -> Console:
    """Return the console on standard output; it prints text as it is, control characters escaped.

    Piped text is never wrapped, so that paths and ids in it stay whole.
    """
    return _console_class()(stderr=False, **_settings(wrap=sys.stdout.isatty()))


@lru_cache(maxsize=1)
def error_console() -> Console:
    """Return the console on standard error; see :func:`console`."""
    return _console_class()(stderr=True, **_settings(wrap=sys.stderr.isatty()))


def _settings(*, wrap: bool) -> dict[str, Any]:
    return {"highlight": False, "markup": False, "emoji": False, "soft_wrap": not wrap}


@cache
def _console_class() -> type[Console]:
    # Made when it is first used: rich costs a tenth of a second that many commands do without.
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """Escapes control characters in text, and keeps its own for colours and cursor."""

        def render_str(self, text: str, **settings: Any) -> Any:
            return super().render_str(printable(text), **settings)

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(printable(text), style)

        def out(self, *objects: Any, **settings: Any) -> None:
            super().out(*(printable(str(item)) for item in objects), **settings)

    return SafeConsole
