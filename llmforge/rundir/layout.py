"""Where everything of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ARCHIVE = ".archive"
"""Holds cleared runs, below the directory of all runs."""


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory."""

    path: Path

    @property
    def id(self) -> str:
        """The run id, which is the directory's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The directory that holds all runs."""
        return self.path.parent

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def record(self) -> Path:
        """State, identity, provenance and heartbeat."""
        return self.path / "run.json"

    @property
    def annotations(self) -> Path:
        """Name, tags and note that people gave the run afterwards."""
        return self.path / "annotations.json"

    @property
    def metrics(self) -> Path:
        """Deterministic values, a JSON row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """Clock values, a JSON row per logged step."""
        return self.path / "timing.jsonl"

    @property
    def system(self) -> Path:
        """System metrics, a JSON row per sample."""
        return self.path / "system.jsonl"

    @property
    def summary(self) -> Path:
        """Final metrics at a stable place."""
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        """Generated texts, a JSON row each."""
        return self.path / "samples.jsonl"

    @property
    def examples(self) -> Path:
        """What the model responded to the newest tests, and what holds of it."""
        return self.path / "examples.json"

    @property
    def evaluation(self) -> Path:
        """What ``forge evaluate`` measured."""
        return self.path / "evaluation.json"

    @property
    def int8(self) -> Path:
        """What int8 weights cost in quality, measured once for each checkpoint."""
        return self.path / "int8.json"

    @property
    def benchmarks(self) -> Path:
        """What ``forge evaluate --harness`` measured."""
        return self.path / "benchmarks.json"

    @property
    def plots(self) -> Path:
        """Curves as PNG."""
        return self.path / "plots"

    @property
    def traces(self) -> Path:
        """Timelines and figures of steps that were traced."""
        return self.path / "traces"

    @property
    def memory(self) -> Path:
        """What was in memory when it did not suffice."""
        return self.path / "memory"

    @property
    def export(self) -> Path:
        """The best checkpoint for other programs, of runs with ``export.at_end``."""
        return self.path / "export"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's files."""
        return self.path / "tokenizer"

    @property
    def reference(self) -> Path:
        """What the objective compares with, computed before the first step."""
        return self.path / "reference.safetensors"

    @property
    def trackers(self) -> Path:
        """One folder per tracker."""
        return self.path / "trackers"

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint, and the pointers ``last`` and ``best``."""
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        """Events for the courier, a JSON line each."""
        return self.path / "journal.jsonl"

    @property
    def cursors(self) -> Path:
        """What the courier has delivered, a file per tracker."""
        return self.path / "cursors"

    @property
    def uploads(self) -> Path:
        """How the upload of each checkpoint stands, a file per step."""
        return self.path / "uploads"

    @property
    def deployments(self) -> Path:
        """Where checkpoints of the run were deployed."""
        return self.path / "deployments.json"

    @property
    def deploying(self) -> Path:
        """Folders that are being deployed; gone once they are."""
        return self.path / "deploying"

    @property
    def completion(self) -> Path:
        """The completion record of a cleared run; a run not cleared has it elsewhere."""
        return self.path / "completion.json"


def run_of(checkpoint: Path) -> RunDirectory | None:
    """Return the run a checkpoint's directory is in; None for one that was copied elsewhere."""
    folder = checkpoint.absolute().parent
    directory = RunDirectory(folder.parent)
    return directory if folder == directory.checkpoints else None


def completion_path(root: Path, run_id: str) -> Path:
    """Return where the completion of ``run_id`` is recorded."""
    return root / ".completed" / f"{run_id}.json"


def lock_path(root: Path, run_id: str) -> Path:
    """Return the lock file of ``run_id``."""
    return root / ".locks" / f"{run_id}.lock"


def archive_path(root: Path, run_id: str, attempt: int) -> Path:
    """Return where a cleared attempt of ``run_id`` is kept."""
    return root / ARCHIVE / f"{run_id}.attempt-{attempt}"
