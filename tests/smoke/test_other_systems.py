"""llmforge as macOS and Windows see it: without the modules and functions that only POSIX has.

This stands in for machines that the tests do not have: what llmforge itself must not need is taken
away from it. CI runs the real systems.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forge_process import Workplace, environment

WITHOUT_POSIX = """
import builtins, os, signal, subprocess, sys, types

ABSENT = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "readline"}
plain = builtins.__import__

def imported(name, globals=None, *rest, **more):
    importer = (globals or {}).get("__name__", "")
    if name in ABSENT and importer.split(".")[0] in ("llmforge", "llmforge_plugins"):
        raise ImportError(f"no module named {name} here, asked for by {importer}")
    return plain(name, globals, *rest, **more)

builtins.__import__ = imported
for name in ("killpg", "pread", "pwrite", "O_CLOEXEC", "getpgid", "setsid"):
    delattr(os, name)
subprocess.signal = types.SimpleNamespace(**vars(signal))  # Python's own is of this system
for name in ("SIGKILL", "SIGHUP"):
    delattr(signal, name)
"""


def forge(workplace: Workplace, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = f"{WITHOUT_POSIX}\nsys.argv = {['forge', *arguments]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", f"{start}from llmforge.__main__ import main\nmain()"],
        cwd=workplace.path,
        env=environment(workplace),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["recipe", "check", "recipe.toml"], ["runs", "list"]], ids=" ".join
)
def test_what_needs_no_training_works(tmp_path: Path, arguments: list[str]) -> None:
    done = forge(Workplace(tmp_path / "place"), *arguments)
    assert done.returncode == 0, done.stderr


def test_one_process_trains_resumes_and_generates(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "place")
    for stop in ("6", "9"):
        done = forge(workplace, "train", "recipe.toml", "--set", f"train.stop_at={stop}")
        assert done.returncode == 0, done.stderr
    assert workplace.record["restarts"] == 2  # starts, the first included
    assert workplace.rows[-1]["step"] == 9
    done = forge(workplace, "generate", "tiny", "--prompt", "The", "--max-new-tokens", "2")
    assert done.stdout.startswith("The"), done.stderr


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    # peft leads to PyTorch's launcher of processes, which on this system wants its signals.
    walk = (
        "import pkgutil, importlib, llmforge, llmforge_plugins\n"
        "for package in (llmforge, llmforge_plugins):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith(('__main__', '_worker', '._lora')):\n"
        "            importlib.import_module(found.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + walk],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
