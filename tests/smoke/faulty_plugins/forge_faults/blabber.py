"""Components that tell secrets in their errors, as careless libraries do."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from llmforge import Component, RunContext, events, hookimpl


def _secrets() -> str:
    """Return what ``FAULT_BLAB`` names: variables whose values are told."""
    values = [os.environ[name] for name in os.environ["FAULT_BLAB"].split()]
    return f"401 for https://user:{values[0]}@host/?token={values[0]} with {' and '.join(values)}"


class Blabber(Component, kind="tracker"):
    """Raises, logs, warns and prints with secrets in the text."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Any]:
        """Tell the secrets as a notice."""
        run.notice(f"preflight: {_secrets()}")
        return []

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Tell the secrets in every other way."""
        del event
        logging.getLogger("careless").warning("%s", _secrets())
        warnings.warn(_secrets(), stacklevel=1)
        print(_secrets())
        print(_secrets(), file=sys.stderr)
        raise ConnectionError(_secrets())


class BlabbingCallback(Component, kind="callback"):
    """Raises with secrets in the text; where ``FAULT_BLAB_AT`` says so, as the run's own error."""

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Raise, which costs the run nothing."""
        del event
        raise ConnectionError(_secrets())

    @hookimpl
    def forge_extra_metrics(self, run: RunContext, step: int) -> dict[str, float]:
        """Raise, which ends the run."""
        del run
        if step == int(os.environ.get("FAULT_BLAB_AT", "-1")):
            raise RuntimeError(_secrets())
        return {}
