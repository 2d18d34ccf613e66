"""``uv.lock`` has what ``constraints.txt`` pins and ``pyproject.toml`` asks for."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REMEDY = "run: uv lock"


def packages() -> dict[str, Any]:
    """Return the packages of the lock by name; of several versions of one, the last."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"]: package for package in lock["package"]}


def name_of(requirement: str) -> str:
    """Return the normalised name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def test_locked_versions_are_the_tested_ones() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip().split("==") for line in lines if "==" in line]
    assert pins
    locked = packages()
    wrong = {
        name: locked.get(name_of(name), {}).get("version")
        for name, version in pins
        if locked.get(name_of(name), {}).get("version", "").split("+")[0] != version
    }
    assert wrong == {}, REMEDY


def test_everything_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *chain.from_iterable(project["optional-dependencies"].values()),
    ]
    assert {name_of(item) for item in asked} - packages().keys() == set(), REMEDY
    own = packages()["llmforge-train"]["metadata"]
    listed = {item["name"] for item in own["requires-dist"]}
    assert listed == {name_of(item) for item in asked}, REMEDY


def test_linux_takes_the_cpu_build_of_pytorch() -> None:
    torch = packages()["torch"]
    assert torch["version"].endswith("+cpu")
    assert not [name for name in packages() if name.startswith("nvidia-cu")]
