"""Importing DeepSpeed without its talking on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

_LOGGER = "DeepSpeed"
_DISTUTILS = "Distutils was imported before Setuptools|Setuptools is replacing distutils"
_RENAMED = r"`torch\.distributed\.\w+` is deprecated"
_log = logging.getLogger("llmforge.deepspeed")


def import_deepspeed(device: str) -> ModuleType:
    """Return the package, set up for ``device`` (``cpu``, ``cuda:0`` …).

    Its log lines go to the run's log file only. It reads its accelerator from the environment
    when it is first imported.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])
    with captured_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages it still imports by their old names
        import deepspeed

    # setuptools, which PyTorch's compiler imports later than DeepSpeed imports distutils
    warnings.filterwarnings("ignore", message=_DISTUTILS, category=UserWarning)
    # its collectives are called by names that newer PyTorch releases warn about at every call
    warnings.filterwarnings("ignore", message=_RENAMED, category=FutureWarning)
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(handler, _ToLogFile) for handler in logger.handlers):
        logger.handlers[:] = [_ToLogFile()]
        logger.propagate = False
        logger.setLevel(logging.INFO if _log.isEnabledFor(logging.DEBUG) else logging.WARNING)
        # a kernel for reductions in inference, which would need a compiler at the first start
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def captured_output() -> Iterator[None]:
    """Send what is printed in the block to the log file instead of the terminal."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        for line in filter(str.strip, text.getvalue().splitlines()):
            _hand_over(logging.DEBUG, line.strip())


class _ToLogFile(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _hand_over(record.levelno, record.getMessage())


def _hand_over(level: int, text: str) -> None:
    _log.log(level, "deepspeed: %s", text, extra={"screen": False})
