"""``forge`` inside the test's own process: the same command without the seconds of imports.

For tests in which no process is stopped. One thread, as the processes of
:mod:`forge_process` have, so that results compare byte for byte.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from llmforge import plugins
from llmforge.cli.app import main
from llmforge.settings import settings

if TYPE_CHECKING:
    from forge_process import Workplace


def run_here(workplace: Workplace, *arguments: str, variables: dict[str, str]) -> tuple[int, str]:
    """Run a ``forge`` command; return its exit code and what it printed."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        _fresh_caches(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        for name in [name for name in os.environ if name.startswith("FORGE_")]:
            patch.delenv(name)
        for name, text in variables.items():
            patch.setenv(name, text)
        for path in reversed(variables.get("PYTHONPATH", "").split(os.pathsep)):
            if path:
                patch.syspath_prepend(path)
        patch.chdir(workplace.path)
        patch.setattr(sys, "argv", ["forge", *arguments])
        plugins.refresh()
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
    return code, printed.getvalue()


@contextlib.contextmanager
def _fresh_caches() -> Iterator[None]:
    """Forget what this process knows of environment and plugins, before and after."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings.cache_clear()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        settings.cache_clear()
        plugins.refresh()
