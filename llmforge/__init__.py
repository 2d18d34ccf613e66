"""llmforge: a pluggable experiment framework for language models.

The public interface is what this module lists in ``__all__``; plugins import nothing else except
:mod:`llmforge.errors`, :mod:`llmforge.events`, :mod:`llmforge.interfaces` and
:mod:`llmforge.testing`. Names are loaded when first used, so that importing llmforge is cheap.
"""

from __future__ import annotations

from llmforge.lazy_exports import lazy_exports

__version__ = "0.1.0"

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from llmforge.api import RunHandle, TrainResult, generate, load_run, train
    from llmforge.component import Component
    from llmforge.errors import ForgeError, Problem
    from llmforge.hookspecs import hookimpl
    from llmforge.installed import install_command
    from llmforge.interfaces import RunContext
    from llmforge.options import IDENTITY, MACHINE, SAFE, Options
    from llmforge.plugins import load_component
    from llmforge.progress import track
    from llmforge.settings import credential
    from llmforge.sweeps.api import SweepResult, sweep

__all__ = [
    "IDENTITY",
    "MACHINE",
    "SAFE",
    "Component",
    "ForgeError",
    "Options",
    "Problem",
    "RunContext",
    "RunHandle",
    "SweepResult",
    "TrainResult",
    "__version__",
    "credential",
    "generate",
    "hookimpl",
    "install_command",
    "load_component",
    "load_run",
    "sweep",
    "track",
    "train",
]


__getattr__ = lazy_exports(
    __name__,
    {
        "Component": "llmforge.component",
        "ForgeError": "llmforge.errors",
        "IDENTITY": "llmforge.options",
        "MACHINE": "llmforge.options",
        "Options": "llmforge.options",
        "Problem": "llmforge.errors",
        "RunContext": "llmforge.interfaces",
        "RunHandle": "llmforge.api",
        "SAFE": "llmforge.options",
        "SweepResult": "llmforge.sweeps.api",
        "TrainResult": "llmforge.api",
        "credential": "llmforge.settings",
        "generate": "llmforge.api",
        "hookimpl": "llmforge.hookspecs",
        "install_command": "llmforge.installed",
        "load_component": "llmforge.plugins",
        "load_run": "llmforge.api",
        "sweep": "llmforge.sweeps.api",
        "track": "llmforge.progress",
        "train": "llmforge.api",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
