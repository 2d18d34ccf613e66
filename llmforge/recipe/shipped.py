"""The recipes that come with llmforge: in the package when installed, beside it in a clone."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from llmforge.errors import UsageError
from llmforge.options import closest

_PACKAGE = Path(__file__).resolve().parent.parent


_SCHEMA = "#:schema "
"""Begins the line by which an editor finds the JSON Schema of a TOML file (taplo)."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with llmforge.

    Attributes:
        name: what ``forge train NAME`` takes.
        path: where its file is.
        description: the first comment line of the file.
        profiles: the profiles the file itself defines or inherits from shipped ones.
    """

    name: str
    path: Path
    description: str
    profiles: tuple[str, ...]


def shipped_directory() -> Path:
    """Return the folder of the shipped recipes; it may be missing in a damaged installation."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped_names() -> list[str]:
    """Return the names of all shipped recipes, sorted."""
    return sorted(path.stem for path in shipped_directory().glob("*.toml"))


def find_shipped(name: str) -> Path | None:
    """Return the file of the shipped recipe ``name`` (with or without .toml), or None."""
    stem = name.removesuffix(".toml")
    return shipped_directory() / f"{stem}.toml" if stem in shipped_names() else None


def shipped_recipes() -> list[ShippedRecipe]:
    """Return every shipped recipe with its description, sorted by name."""
    found = []
    for name in shipped_names():
        path = shipped_directory() / f"{name}.toml"
        found.append(ShippedRecipe(name, path, _description(path), _profiles(path)))
    return found


def copy_shipped(name: str, *, destination: Path, force: bool = False) -> Path:
    """Copy a shipped recipe to ``destination`` (a folder or a file) and return the new file.

    What it extends need not be copied: ``extends`` also finds shipped recipes by name.

    Raises:
        UsageError: no such recipe, the file exists and ``force`` is not set, or it cannot be
            written.
    """
    source = find_shipped(name)
    if source is None:
        near = closest(name, shipped_names())
        hint = f"did you mean '{near}'?" if near else "'forge recipe list' shows them"
        raise UsageError(f"no shipped recipe is named '{name}'", remedy=hint)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists() and not force:
        raise UsageError(f"{target} exists", remedy="give another name, or --force to overwrite it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The schema is beside the shipped recipes only.
        target.write_text(_without_schema(source.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror}", remedy="give another place"
        ) from error
    return target


def _description(path: Path) -> str:
    first = _without_schema(path.read_text(encoding="utf-8")).partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def _without_schema(text: str) -> str:
    """Return a recipe without the line that names its schema to editors."""
    return text.partition("\n")[2] if text.startswith(_SCHEMA) else text


def _profiles(path: Path) -> tuple[str, ...]:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    base = find_shipped(str(document.get("extends", "")))
    inherited = _profiles(base) if base else ()
    return tuple(dict.fromkeys([*inherited, *document.get("profile", {})]))
