"""Reading recipe files: one document each, after those it extends."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.errors import Problem, RecipeError
from llmforge.options import closest
from llmforge.recipe.resolved import Origin
from llmforge.recipe.shipped import find_shipped, shipped_directory, shipped_names
from llmforge.recipe.toml import KeyPath, dotted, key_lines

_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One recipe file as it was read.

    Attributes:
        path: the file.
        label: the file as messages name it.
        tables: its content without ``extends`` and ``profile``.
        profiles: its ``[profile.NAME]`` overlays.
        lines: the line of every key.
    """

    path: Path
    label: str
    tables: Mapping[str, Any]
    profiles: Mapping[str, Mapping[str, Any]]
    lines: Mapping[KeyPath, int]

    def origin(self, path: KeyPath) -> Origin:
        """Return where ``path`` is written, as exactly as is known."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return Origin(self.label, self.lines[path[:length]])
        return Origin(self.label)

    def profile_origin(self, profile: str, path: KeyPath) -> Origin:
        """Return where the overlay ``profile`` writes ``path``."""
        return Origin(f"profile {profile} ({self.origin(('profile', profile, *path))})")


def read_documents(source: str | Path) -> list[Document]:
    """Return the file ``source`` (a path or a shipped name) after all it extends, base first.

    Raises:
        RecipeError: a file is missing, unreadable or not TOML, or the chain is a circle.
    """
    return _chain(_find(source), chain=[])


def paths_behind(source: str | Path) -> list[Path]:
    """Return every path that decides which files ``source`` is read from, absent ones too."""
    paths = [Path(source).expanduser(), shipped_directory()]
    path: Path | None = _find(source)
    while path is not None:
        paths.append(path)
        _, base = _read(path)
        if base is None:
            break
        paths.append(path.parent / base)
        path = paths[-1] if paths[-1].is_file() else find_shipped(base)
    return paths


def _chain(path: Path, *, chain: list[Path]) -> list[Document]:
    document, base = _read(path)
    if base is None:
        return [document]
    if not isinstance(base, str):
        raise _failure(document, "must be the name of one file")
    beside = path.parent / base
    found = beside if beside.is_file() else find_shipped(base)
    if found is None:
        neighbours = [item.name for item in path.parent.glob("*.toml")]
        near = closest(base, [*neighbours, *shipped_names()])
        remedy = f"did you mean '{near}'?" if near else "paths are relative to the recipe itself"
        raise _failure(document, f"no file {beside} and no shipped recipe '{base}'", remedy)
    trail = [*chain, path.resolve()]
    if found.resolve() in trail:
        names = " extends ".join(item.name for item in [*trail, found])
        raise _failure(document, f"recipes extend each other in a circle: {names}")
    return [*_chain(found, chain=trail), document]


def _read(path: Path) -> tuple[Document, Any]:
    """Return one file and the value of its ``extends``."""
    label = label_of(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = tomllib.loads(text)
    except OSError as error:
        raise RecipeError([Problem(message=f"cannot be read: {error}", where=label)]) from error
    except UnicodeDecodeError as error:
        problem = Problem(message=f"is not UTF-8 text: {error}", where=label)
        raise RecipeError([problem], source=label) from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(error, label, text)], source=label) from error
    lines = key_lines(text)
    base = content.pop("extends", None)
    profiles = content.pop("profile", {})
    document = Document(path=path, label=label, tables=content, profiles=profiles, lines=lines)
    _check_profiles(document)
    return document, base


def _check_profiles(document: Document) -> None:
    """Refuse a ``profile`` that is not a table of tables."""
    problem = "must be a table of values to overlay"
    if not isinstance(document.profiles, dict):
        where = str(document.origin(("profile",)))
        raise RecipeError([Problem(key="profile", message=problem, where=where)])
    wrong = [name for name, value in document.profiles.items() if not isinstance(value, dict)]
    if wrong:
        raise RecipeError(
            [
                Problem(
                    key=dotted(("profile", name)),
                    message=problem,
                    where=str(document.origin(("profile", name))),
                    remedy="write [profile.NAME] and below it, for example, train.max_steps = 20",
                )
                for name in wrong
            ],
            source=document.label,
        )


def _syntax_problem(error: tomllib.TOMLDecodeError, label: str, text: str) -> Problem:
    match = _TOML_POSITION.search(str(error))
    rows = text.splitlines()
    number = int(match[1]) if match and match[1] else max(len(rows), 1)
    message = str(error)[: match.start()] if match else str(error)
    written = rows[number - 1].strip() if number <= len(rows) else ""
    shown = f" in: {written[:80]}" if written else ""
    return Problem(
        message=f"not valid TOML: {message[0].lower()}{message[1:]}{shown}",
        where=f"{label}:{number}",
    )


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    name = str(source)
    if Path(name).name == name and (shipped := find_shipped(name)):
        return shipped
    if path.is_dir():
        problem = Problem(message="is a folder, not a recipe", where=name)
    elif find_shipped(path.name):
        remedy = f"a shipped recipe has this name: give '{path.stem}'"
        problem = Problem(message="no such file", where=name, remedy=remedy)
    else:
        near = closest(path.stem, shipped_names())
        remedy = f"did you mean '{near}'?" if near else "'forge recipe list' shows the shipped ones"
        problem = Problem(message="no such file or shipped recipe", where=name, remedy=remedy)
    raise RecipeError([problem], source=name)


def _failure(document: Document, message: str, remedy: str = "") -> RecipeError:
    where = str(document.origin(("extends",)))
    problem = Problem(key="extends", message=message, where=where, remedy=remedy)
    return RecipeError([problem], source=document.label)


def label_of(path: Path) -> str:
    """Return ``path`` as a message should name it: short where that is clear."""
    absolute = path.resolve()
    if absolute.is_relative_to(Path.cwd()):
        return str(absolute.relative_to(Path.cwd()))
    return path.name if absolute.parent == shipped_directory() else str(path)
