"""Real ``forge`` processes on a tiny experiment: start them, stop them at an instant, compare."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from same_process import run_here

from llmforge.run.setup.kernel_choices import KERNELS
from llmforge.rundir import RunDirectory

RUN_ID = "tiny"
PATIENCE_SECONDS = 120.0

RECIPE = """\
[run]
id = "tiny"
seed = 7

[model]
name = "transformer"
[model.transformer]
layers = 2
width = 32
heads = 2
context = 32
dropout = 0.1

[tokenizer]
name = "bpe"
[tokenizer.bpe]
vocab_size = 320

[data]
name = "text"
[data.text]
train = "train.txt"
validation = "valid.txt"
document = "line"

[train]
max_steps = 60
batch_size = 8
micro_batch_size = 4
precision = "fp32"
log_every = 4
system_every = 0

[optimizer.adamw]
lr = 3e-3

[eval]
every = 5
[early_stopping]
patience = 50
[checkpoint]
every = 3
keep_last = 2

[tracker]
names = []

[generation]
prompts = ["The river"]
[generation.sampler]
max_new_tokens = 8
"""


def write_text(path: Path, *, lines: int, seed: int) -> None:
    """Write made-up sentences of made-up words: much for a tokenizer to learn, little to model."""
    draw = random.Random(seed)
    syllables = ["ri", "ver", "sto", "ne", "mar", "ket", "wa", "gon", "hil", "lo", "tar", "un"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(3000)]
    sentences = (" ".join(draw.choices(words, k=12)).capitalize() for _ in range(lines))
    path.write_text("".join(f"{sentence}.\n" for sentence in sentences), encoding="utf-8")


@dataclass
class Workplace:
    """A directory with data, a recipe, a cache and a run root of its own.

    Attributes:
        path: the directory.
        settings: recipe keys that differ from :data:`RECIPE`, as ``--set`` takes them.
        environment: further variables for the processes.
        recipe: the recipe.
        lines: sentences of training text.
    """

    path: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    recipe: str = RECIPE
    lines: int = 400

    def __post_init__(self) -> None:
        if (self.path / "recipe.toml").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        # runs that are compared are on one machine, which measures its kernels once
        measured = self.path.parent / KERNELS
        measured.mkdir(exist_ok=True)
        (self.path / "cache").mkdir()
        (self.path / "cache" / KERNELS).symlink_to(measured)
        (self.path / "recipe.toml").write_text(self.recipe, encoding="utf-8")
        write_text(self.path / "train.txt", lines=self.lines, seed=1)
        write_text(self.path / "valid.txt", lines=30, seed=2)

    @property
    def run(self) -> RunDirectory:
        """The run all tests here train."""
        return RunDirectory(self.path / "runs" / RUN_ID)

    @property
    def record(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        body: dict[str, Any] = json.loads(self.run.record.read_text(encoding="utf-8"))
        return body

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``."""
        text = self.run.metrics.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.run.checkpoints.glob("step-????????"))

    def copy(self, path: Path) -> Workplace:
        """Return a copy of everything here at ``path``."""
        shutil.copytree(self.path, path)
        return dataclasses.replace(self, path=path)

    def start(self, *arguments: str, preexec: Callable[[], None] | None = None) -> ForgeProcess:
        """Start ``forge train`` on the recipe."""
        return self.forge("train", "recipe.toml", *self._settings(), *arguments, preexec=preexec)

    def forge(self, *arguments: str, preexec: Callable[[], None] | None = None) -> ForgeProcess:
        """Start any ``forge`` command here."""
        return ForgeProcess(self, arguments, preexec=preexec)

    def train(self, *arguments: str, expect: int = 0) -> ForgeProcess:
        """Run ``forge train`` to its end and check its exit code."""
        return self.start(*arguments).finish(expect=expect)

    def train_here(self, *arguments: str, expect: int = 0) -> str:
        """Run ``forge train`` in this very process; check its exit code, return its output."""
        return self.forge_here("train", "recipe.toml", *self._settings(), *arguments, expect=expect)

    def forge_here(self, *arguments: str, expect: int = 0) -> str:
        """Run any ``forge`` command in this very process."""
        code, output = run_here(self, *arguments, variables=variables(self))
        assert code == expect, f"exit code {code}, not {expect}\n{output}"
        return output

    def _settings(self) -> list[str]:
        return [part for key, text in self.settings.items() for part in ("--set", f"{key}={text}")]

    def result(self) -> dict[str, str]:
        """Return hashes of all that a run killed and resumed must have in common with others."""
        newest = self.checkpoints[-1]
        files = [*sorted(newest.glob("*.safetensors")), self.run.metrics]
        files += [self.run.samples] if self.run.samples.exists() else []
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        return {"checkpoint": newest.name, **hashes}


class ForgeProcess:
    """One ``forge`` process and what it printed."""

    def __init__(
        self,
        workplace: Workplace,
        arguments: tuple[str, ...],
        *,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.workplace = workplace
        self.log_start = _size(workplace.run.path / "log.txt")
        self.journal_start = _size(workplace.run.journal)
        self._output = (workplace.path / "output.txt").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmforge", *arguments],
            cwd=workplace.path,
            env=environment(workplace),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        """Everything printed so far, standard error included."""
        return (self.workplace.path / "output.txt").read_text(encoding="utf-8", errors="replace")

    def finish(self, *, expect: int, within: float = PATIENCE_SECONDS) -> ForgeProcess:
        """Wait for the end and check the exit code."""
        try:
            code = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not ended after {within:.0f} s\n{self.output}") from None
        assert code == expect, f"exit code {code}, not {expect}\n{self.output}"
        return self

    def kill(self) -> None:
        """Kill the process as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wait_for(self, instant: Callable[[ForgeProcess], bool]) -> bool:
        """Wait until ``instant`` holds; False when the process ended before it did."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not instant(self):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"still waiting\n{self.output}"
            time.sleep(0.002)
        return True


def environment(workplace: Workplace) -> dict[str, str]:
    """Return the environment of ``forge``: one thread, no network, everything in the workplace."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("FORGE_")}
    return {**own, **variables(workplace)}


def variables(workplace: Workplace) -> dict[str, str]:
    """Return what differs from the test's own environment."""
    return {
        "FORGE_RUN_ROOT": str(workplace.path / "runs"),
        "FORGE_CACHE": str(workplace.path / "cache"),
        "FORGE_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **workplace.environment,
    }


# Instants in the life of a process -----------------------------------------------------------


def handles_signals(process: ForgeProcess) -> bool:
    """The process catches SIGTERM: its first own lines have run."""
    try:
        status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
    except OSError:
        return False
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def logged(text: str) -> Callable[[ForgeProcess], bool]:
    """Return the instant at which this process has written ``text`` to the run's log."""

    def instant(process: ForgeProcess) -> bool:
        return text in _tail(process.workplace.run.path / "log.txt", process.log_start)

    return instant


def stepping(process: ForgeProcess) -> bool:
    """The step loop of this process is about to begin."""
    return "forge_run_start" in _tail(process.workplace.run.journal, process.journal_start)


def saving(process: ForgeProcess) -> bool:
    """A checkpoint is being written."""
    directory = process.workplace.run.checkpoints
    return stepping(process) and any(name.startswith(".tmp-") for name in _names(directory))


def tokenising(process: ForgeProcess) -> bool:
    """The data is open, and the token cache is being built or was built before."""
    cache = process.workplace.path / "cache" / "tokens"
    return logged("preparing data")(process) and bool(_names(cache))


def finishing(process: ForgeProcess) -> bool:
    """The last row is written; samples, curves and the completion are next."""
    return logged("generating samples")(process) and process.workplace.run.plots.is_dir()


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  # a directory may vanish while it is read
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
