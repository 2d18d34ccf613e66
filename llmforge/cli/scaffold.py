"""Writing a new plugin package from the templates beside this module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from llmforge import __version__
from llmforge.component import KINDS
from llmforge.errors import UsageError
from llmforge.installed import COMMAND, COMMANDS_GROUP
from llmforge.options import closest

TEMPLATED = (*KINDS, COMMAND)
"""Kinds that packages are written for: all of them."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 40
_PREFIX = "llmforge-"


def write_package(name: str, *, kind: str, parent: Path, command: bool = False) -> list[Path]:
    """Write the package ``llmforge-NAME`` into ``parent`` and return its files.

    Args:
        name: what recipes select the component by; a leading ``llmforge-`` is dropped.
        kind: one of ``TEMPLATED``.
        parent: the directory to put the package's directory in.
        command: also add the command ``forge NAME`` to a component's package.

    Raises:
        UsageError: the name or kind is not usable, or something is there already.
    """
    name = name.removeprefix(_PREFIX)
    _check_name(name)
    _check_kind(kind)
    directory = parent / f"{_PREFIX}{name}"
    if directory.exists():
        raise UsageError(f"{directory} already exists", remedy="choose another name or --dir")
    values = _values(name, kind=kind, command=command and kind != COMMAND)
    written = []
    for place, template in _templates(kind, command=command or kind == COMMAND):
        path = directory / Template(place).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template).substitute(values), encoding="utf-8")
        written.append(path)
    return written


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"'{name}' is not a valid plugin name",
            remedy="use lower-case letters, digits and single dashes between them, beginning with "
            f"a letter, at most {_LONGEST_NAME} characters",
        )


def _check_kind(kind: str) -> None:
    if kind not in TEMPLATED:
        near = closest(kind, TEMPLATED)
        hint = f"did you mean '{near}'?" if near else f"there are: {', '.join(TEMPLATED)}"
        raise UsageError(f"there is no template for a '{kind}'", remedy=hint)


def _values(name: str, *, kind: str, command: bool) -> Mapping[str, str]:
    package = f"{_PREFIX}{name}".replace("-", "_")
    point = f'\n[project.entry-points."llmforge.commands"]\n{name} = "{package}.command:main"\n'
    return {
        "name": name,
        "kind": kind,
        "group": COMMANDS_GROUP if kind == COMMAND else KINDS[kind].group,
        "package": package,
        "distribution": f"{_PREFIX}{name}",
        "class_name": "main" if kind == COMMAND else _class_name(name, kind),
        "version": __version__,
        "command_point": point if command else "",
        "verb": "sweep" if kind == "sweep" else "train",
        "command_usage": f"    forge {name} Ada\n" if command else "",
    }


def _class_name(name: str, kind: str) -> str:
    parts = name.split("-")
    if parts[-1] != kind:  # my-model is a MyModel
        parts.append(kind)
    return "".join(part.capitalize() for part in parts)


def _templates(kind: str, *, command: bool) -> Iterator[tuple[str, str]]:
    """Yield (place in the package, template) of every file to write."""
    root = files("llmforge.cli") / "templates"
    package = root / "package"
    yield "pyproject.toml", (package / "pyproject.toml.tmpl").read_text(encoding="utf-8")
    readme = root / kind if kind == COMMAND else package
    yield "README.md", (readme / "README.md.tmpl").read_text(encoding="utf-8")
    yield "src/$package/__init__.py", (package / "init.py.tmpl").read_text(encoding="utf-8")
    if kind != COMMAND:
        yield (
            "recipe.toml",
            (package / "recipe.toml.tmpl").read_text(encoding="utf-8")
            + (root / kind / "recipe.toml.tmpl").read_text(encoding="utf-8"),
        )
    places = {"component.py": "src/$package/$kind.py", "test.py": "tests/test_$kind.py"}
    if command:
        places |= {
            "command.py": "src/$package/command.py",
            "test_command.py": "tests/test_command.py",
        }
    for folder in dict.fromkeys((kind, *([COMMAND] if command else []))):
        for item in sorted((root / folder).iterdir(), key=lambda entry: entry.name):
            file = item.name.removesuffix(".tmpl")
            if file not in ("recipe.toml", "README.md"):
                yield places.get(file, f"src/$package/{file}"), item.read_text(encoding="utf-8")
