"""What is deployed: a checkpoint, exported once for all tries, or a folder that was exported."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmforge import __version__
from llmforge.checkpoint import Checkpoint
from llmforge.checkpoint.format import RECIPE, read_metadata
from llmforge.checkpoint.hashed_files import FileEntry, hash_file
from llmforge.checkpoint.manifest import MANIFEST
from llmforge.errors import ForgeError, UsageError
from llmforge.export import Layout, export_folder
from llmforge.export.benchmark_results import FOLDER
from llmforge.export.publish import MARK, entries
from llmforge.generation import locate
from llmforge.interfaces import DeployedFile, ModelFolder
from llmforge.recipe import Recipe, load_recipe
from llmforge.recipe.run_identity import identity, run_id
from llmforge.rundir import RunDirectory, has_record

Say = Callable[[str], None]

_HOW = "'forge export RUN --to DIR' writes a folder that can be deployed"


@dataclass(frozen=True, kw_only=True)
class ExportChoices:
    """How a checkpoint is exported; see :func:`llmforge.export.export_folder`."""

    layout: Layout = "hf"
    merge: bool = False
    dtype: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is deployed.

    Attributes:
        title: of it, for people.
        key: equal for what gives equal folders.
        recipe: the recipe file it belongs to.
        directory: its run, None when that is not on this machine.
        checkpoint: what to export; None for a folder that was exported already.
        choices: how to export it.
        path: the exported folder, which for a checkpoint may not be there yet.
        facts: the further fields of its :class:`~llmforge.interfaces.ModelFolder`.
    """

    title: str
    key: str
    recipe: Path
    directory: RunDirectory | None
    checkpoint: Checkpoint | None
    choices: ExportChoices
    path: Path
    facts: Mapping[str, Any]

    def export(self, target: Path | None = None, *, notice: Say = lambda _: None) -> Path:
        """Return the folder with all files in it, exported to ``target`` if it is not there.

        Raises:
            ExportError: the model has no such form.
            CheckpointError: the checkpoint is damaged, or the disk does not take the folder.
        """
        target = self.path if target is None else target
        if self.checkpoint is not None and not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            export_folder(self.checkpoint, target, notice=notice, **asdict(self.choices))
        return target

    def folder(
        self, path: Path, files: Mapping[str, DeployedFile], *, private: bool
    ) -> ModelFolder:
        """Return what deployments are given."""
        return ModelFolder(path=path, files=files, private=private, **self.facts)


def find_source(
    address: str, choices: ExportChoices, *, root: Path, say: Say = lambda _: None
) -> Source:
    """Return what ``address`` means: an exported folder, or a checkpoint to export.

    Args:
        address: of a run or checkpoint, or the path of an exported folder; a run comes before a
            folder of the same name.
        choices: how a checkpoint is exported.
        root: directory of all runs.
        say: told what happens meanwhile.

    Raises:
        UsageError: there is no such thing.
        ForgeError: there is no such run or checkpoint, or it is damaged.
    """
    path = Path(address).expanduser()
    is_run = path.name == address and has_record(RunDirectory(root / address))
    if not is_run and (path / MARK).is_file():
        return _of_folder(path.absolute(), choices)
    if not is_run and "/" in address and not path.exists() and "@" not in path.name:
        raise UsageError(f"there is no {path}", remedy=f"give a run or a checkpoint; {_HOW}")
    if not is_run and path.is_dir() and not _has_checkpoints(path):
        raise UsageError(
            f"{path} cannot be deployed: it has no {MARK}, which every exported folder has, and it "
            "is neither a run nor a checkpoint",
            remedy=_HOW,
        )
    return _of_checkpoint(locate(address, root=root, say=say), choices)


def _has_checkpoints(path: Path) -> bool:
    return (path / MANIFEST).is_file() or RunDirectory(path).checkpoints.is_dir()


def files_of(path: Path) -> dict[str, DeployedFile]:
    """Return size and hash of every file of a folder, except hidden ones, which tools leave.

    Results of benchmarks are in a folder that the hub wants hidden.
    """
    return {
        name: DeployedFile(entry.size, entry.sha256)
        for name, entry in entries(path).items()
        if not any(part.startswith(".") for part in name.removeprefix(f"{FOLDER}/").split("/"))
    }


def entries_of(files: Mapping[str, DeployedFile]) -> dict[str, FileEntry]:
    """Return ``files`` as the code of checkpoints and storage has them."""
    return {name: FileEntry(file.size, file.sha256) for name, file in files.items()}


def discard(path: Path) -> None:
    """Delete a folder that a later try could have used."""
    shutil.rmtree(path, ignore_errors=True)


def _of_checkpoint(checkpoint: Checkpoint, choices: ExportChoices) -> Source:
    metadata = read_metadata(checkpoint.path)
    inside = checkpoint.path.parent.name == "checkpoints"
    directory = RunDirectory(checkpoint.path.parents[1]) if inside else None
    run = str(metadata.get("run_id") or (directory.id if directory else checkpoint.path.name))
    key = _key(checkpoint, choices, directory)
    beside = checkpoint.path.with_name(f".{checkpoint.path.name}.deploying")
    evaluation = metadata.get("evaluation") or {}
    return Source(
        title=f"{run}, step {checkpoint.step:,}{' (best)' if checkpoint.is_best else ''}",
        key=key,
        recipe=directory.recipe
        if directory and directory.recipe.is_file()
        else checkpoint.path / RECIPE,
        directory=directory,
        checkpoint=checkpoint,
        choices=choices,
        path=(directory.deploying if directory else beside) / key[:16],
        facts={
            "run_id": run,
            "run_directory": directory.path if directory else None,
            "step": checkpoint.step,
            "recipe_hash": checkpoint.manifest.recipe_hash,
            "metrics": {name: float(value) for name, value in evaluation.items()},
        },
    )


def _key(checkpoint: Checkpoint, choices: ExportChoices, directory: RunDirectory | None) -> str:
    """Return a hash of all that decides what the exported files contain."""
    beside = (directory.examples, directory.benchmarks) if directory else ()
    parts = {
        "checkpoint": hash_file(checkpoint.path / MANIFEST),
        "choices": asdict(choices),
        "beside": [hash_file(path) if path.is_file() else "" for path in beside],
        "llmforge": __version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _of_folder(path: Path, choices: ExportChoices) -> Source:
    if choices != ExportChoices():
        raise UsageError(
            f"{path} was exported already: it is deployed as it is, in its format, with its card",
            remedy="change its README.md, or deploy the run or checkpoint instead",
        )
    recipe = _recipe(path / RECIPE)
    measured = _measured(path / "metrics.json")
    step = measured.get("step")
    run = run_id(recipe) if recipe else ""
    digest = hashlib.sha256(str(sorted(files_of(path).items())).encode()).hexdigest()
    return Source(
        title=f"the folder {path.name}" + (f" of {run}, step {step:,}" if run and step else ""),
        key=digest,
        recipe=path / RECIPE,
        directory=None,
        checkpoint=None,
        choices=choices,
        path=path,
        facts={
            "run_id": run,
            "step": step,
            "recipe_hash": identity(recipe).hash if recipe else "",
            "metrics": {
                name: float(value)
                for name, value in measured.items()
                if name.startswith("val/") and isinstance(value, int | float)
            },
        },
    )


def _recipe(path: Path) -> Recipe | None:
    """Return the recipe of a folder; None where it is not there, or its plugins are not."""
    try:
        return load_recipe(path) if path.is_file() else None
    except ForgeError:
        return None


def _measured(path: Path) -> Mapping[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
