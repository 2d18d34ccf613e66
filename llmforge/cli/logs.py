"""Log lines on the screen."""

from __future__ import annotations

import logging

from llmforge.cli.common import console
from llmforge.redaction import redact
from llmforge.run.reporting.reporter import TerminalFilter

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
_chosen: int | None = None


class ScreenHandler(logging.Handler):
    """Prints log lines through the console, so that a live display stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        style = _STYLES.get(record.levelno, "dim" if record.levelno < logging.INFO else "")
        prefix = "notice: " if record.levelno == logging.WARNING else ""
        console().print(f"{prefix}{redact(record.getMessage())}", style=style)


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Choose what the screen shows: ``-v`` debug lines, ``-q`` warnings only, else as it was."""
    global _chosen
    if verbose or quiet:
        _chosen = logging.DEBUG if verbose else logging.WARNING


def show_logs(level: str) -> None:
    """Show llmforge's log lines on the screen from now on.

    Args:
        level: ``run.log_level`` of the recipe, which holds unless ``-v`` or ``-q`` was given.
    """
    shown = logging.getLevelNamesMapping()[level.upper()] if _chosen is None else _chosen
    logger = logging.getLogger("llmforge")
    if any(isinstance(handler, ScreenHandler) for handler in logger.handlers):
        return
    handler = ScreenHandler(shown)
    handler.addFilter(TerminalFilter())
    logger.addHandler(handler)
    logger.setLevel(min(logger.level or logging.WARNING, shown))
