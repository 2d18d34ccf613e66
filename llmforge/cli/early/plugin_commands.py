"""The commands that installed packages add, read from their metadata.

``importlib.metadata`` takes longer to import than all there is to read. What is out of the ordinary
(packages in archives, two commands of one name, a choice of packages) is left to it.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

GROUP = "llmforge.commands"
_ENDINGS = (".dist-info", ".egg-info")


def plugin_commands() -> dict[str, str] | None:
    """Return the distribution of each command by its name; None when this is no place to say."""
    if any(
        hasattr(finder, "find_distributions") and finder is not PathFinder
        for finder in sys.meta_path
    ):
        return None
    found: dict[str, str] = {}
    seen: set[str] = set()
    for place in sys.path:
        try:
            names = os.listdir(place or ".")  # noqa: PTH208 - names alone
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if place.lower().endswith(".egg"):
            return None
        for name in names:
            if not name.lower().endswith(_ENDINGS) or _distribution(name) in seen:
                continue
            seen.add(_distribution(name))
            folder = os.path.join(place, name)  # noqa: PTH118 - pathlib is slow to import
            for command in _commands(folder):
                package = _name(folder)
                if command in found or not package or "FORGE_PLUGINS" in os.environ:
                    return None
                found[command] = package
    return found


def _distribution(folder: str) -> str:
    """Return the name of a package as two folders of its metadata share it."""
    return folder.rpartition(".")[0].partition("-")[0].lower().replace(".", "_")


def _commands(folder: str) -> list[str]:
    text = _text(folder, "entry_points.txt")
    if GROUP not in text:
        return []
    names, group = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[]").strip()
        elif group == GROUP and line and not line.startswith("#"):
            names.append(line.partition("=")[0].strip())
    return names


def _name(folder: str) -> str:
    text = _text(folder, "METADATA") or _text(folder, "PKG-INFO")
    for line in text.splitlines():
        if line.lower().startswith("name:"):
            return line[5:].strip()
    return ""


def _text(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except (OSError, ValueError):
        return ""
