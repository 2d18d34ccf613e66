"""An installed package of small components for the tests of recipes, found by real entry points."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmforge import plugins

MODULE = '''
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from llmforge import MACHINE, SAFE, Component, Options, hookimpl


class Toy(Component, kind="model"):
    """A model."""

    class Options(Options):
        context: int = 32
        width: int = 8
        dropout: float = 0.0
        shape: Literal["flat", "deep"] = "flat"
        mode: Literal["auto"] | bool | int = "auto"
        sizes: tuple[int, ...] = (1, 2)
        layers: list[int] = Field(default_factory=list)
        note: Annotated[str, SAFE] = ""
        workers: Annotated[int, MACHINE] = 1

    @hookimpl
    def forge_build_model(self, run, tokenizer):
        return None


class Words(Component, kind="tokenizer"):
    """A tokenizer."""

    class Options(Options):
        vocab_size: int = 100

    @hookimpl
    def forge_build_tokenizer(self, run, data):
        return None

    @hookimpl
    def forge_load_tokenizer(self, run, directory):
        return None


class Lines(Component, kind="data"):
    """Data."""

    class Options(Options):
        path: Path
        token: str = ""

    @hookimpl
    def forge_build_data(self, run):
        return None


class Plain(Component, kind="optimizer"):
    """An optimizer."""

    class Options(Options):
        lr: float = 1e-2
        momentum: float = 0.9

    @hookimpl
    def forge_build_optimizer(self, run, parameters):
        return None


class Other(Component, kind="optimizer"):
    """Another optimizer."""

    class Options(Options):
        lr: float = 1e-1
        damping: float = 0.5

    @hookimpl
    def forge_build_optimizer(self, run, parameters):
        return None


class Ramp(Component, kind="schedule"):
    """A schedule."""

    class Options(Options):
        warmup: float | None = None
        warmup_steps: int | None = None
        total_steps: int | None = None

        @model_validator(mode="after")
        def _one(self):
            if self.warmup is not None and self.warmup_steps is not None:
                raise ValueError("give warmup_steps or warmup, not both")
            return self

    @hookimpl
    def forge_build_schedule(self, run):
        return None


class Here(Component, kind="backend"):
    """A backend."""

    class Options(Options):
        workers: int = 2

    @hookimpl
    def forge_build_backend(self, run):
        return None


class Paper(Component, kind="tracker"):
    """A tracker."""

    credentials = ("PAPER_KEY",)

    class Options(Options):
        folder: str = "paper"


class Stone(Component, kind="tracker"):
    """Another tracker."""

    class Options(Options):
        depth: int = 1


class Pigeon(Component, kind="storage"):
    """A storage."""

    credentials = ("PIGEON_USER", "PIGEON_PASSWORD")

    class Options(Options):
        birds: int = 1

    @hookimpl
    def forge_open_storage(self, url):
        return None


class Echo(Component, kind="generation"):
    """A generator."""

    class Options(Options):
        times: Annotated[int, SAFE] = 2

    @hookimpl
    def forge_build_generator(self, run, model, tokenizer):
        return None
'''

ENTRY_POINTS = """
[llmforge.models]
toy = forge_parts:Toy
[llmforge.tokenizers]
words = forge_parts:Words
[llmforge.data]
lines = forge_parts:Lines
[llmforge.optimizers]
plain = forge_parts:Plain
other = forge_parts:Other
missing = forge_parts:Missing
[llmforge.schedules]
ramp = forge_parts:Ramp
[llmforge.backends]
here = forge_parts:Here
[llmforge.trackers]
paper = forge_parts:Paper
stone = forge_parts:Stone
[llmforge.storage]
pigeon = forge_parts:Pigeon
[llmforge.generation]
echo = forge_parts:Echo
"""

RECIPE = """
[run]
seed = 7
[model]
name = "toy"
[model.toy]
width = 16
[tokenizer]
name = "words"
[data]
name = "lines"
[data.lines]
path = "text.txt"
[train]
max_steps = 100
batch_size = 4
[optimizer]
name = "plain"
[optimizer.plain]
lr = 1e-3
[schedule]
name = "ramp"
[backend]
name = "here"
[generation]
name = "echo"
"""


def install(folder: Path) -> None:
    """Write the package and its metadata into ``folder``."""
    (folder / "forge_parts.py").write_text(MODULE)
    metadata = folder / "forge_parts-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forge-parts\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    return folder


@pytest.fixture
def parts(parts_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The components of this module can be named in recipes; returns the working directory."""
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(parts_folder)
    monkeypatch.chdir(tmp_path)
    plugins.refresh()
    yield tmp_path
    plugins.refresh()
    sys.modules.pop("forge_parts", None)


def write(path: Path, text: str = RECIPE, *, more: str = "") -> Path:
    """Write a recipe file, its common indentation removed."""
    path.write_text(textwrap.dedent(text) + textwrap.dedent(more), encoding="utf-8")
    return path
