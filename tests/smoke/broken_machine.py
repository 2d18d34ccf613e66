"""Ways to break the environment of a ``forge`` process: packages, plugins, limits, file systems."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "0123456789abcdef0123456789abcdef01234567"
"""A key that must be seen nowhere."""

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")

CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run([*_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
)
"""Whether a process here may have mounts of its own."""


@dataclass(frozen=True)
class Report:
    """What ``forge doctor --json`` printed."""

    code: int
    text: str
    body: Mapping[str, Any]

    def of(self, check: str) -> list[dict[str, str]]:
        """Return the findings of a check."""
        return [found for found in self.body["findings"] if found["check"] == check]

    def one(self, check: str) -> dict[str, str]:
        """Return the only finding of a check."""
        (found,) = self.of(check)
        return found

    @property
    def problems(self) -> set[str]:
        """The checks that found a problem."""
        return {found["check"] for found in self.body["findings"] if found["status"] == "problem"}


def examine(
    place: Path,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    mounts: Sequence[str] = (),
    limits: Mapping[int, int] | None = None,
) -> Report:
    """Run ``forge doctor --json`` as a process in ``place`` and return what it found.

    Args:
        place: the working directory.
        arguments: further ones.
        variables: added to the environment, which has no network otherwise.
        mounts: shell commands that change what is mounted, for this process alone.
        limits: soft limits of resources.
    """
    base = {"FORGE_OFFLINE": "1", "FORGE_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FORGE_")}
    command = [sys.executable, "-m", "llmforge", "doctor", "--json", *arguments]
    if mounts:
        steps = " && ".join([*mounts, 'exec "$@"'])
        command = [*_NAMESPACE, "sh", "-c", steps, "sh", *command]
    done = subprocess.run(
        command,
        cwd=place,
        env={**kept, **base, **(variables or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=_limiter(limits or {}),
        timeout=280,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return Report(done.returncode, done.stdout + done.stderr, json.loads(done.stdout))


def block_imports(folder: Path, *modules: str) -> str:
    """Make packages impossible to import for processes with this PYTHONPATH, which is returned."""
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(
            f"""
            import sys


            class Blocker:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] in {modules!r}:
                        raise ImportError(f"{{name}} is blocked")


            sys.meta_path.insert(0, Blocker())
            """
        )
    )
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def install(folder: Path, name: str, version: str, *, entry_points: str = "") -> None:
    """Put the metadata of a distribution into a folder of PYTHONPATH."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def stand_in(folder: Path, name: str, script: str) -> None:
    """Write a shell script that stands in for a program of the system."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def pci_with_gpu(folder: Path) -> Path:
    """Return a folder that stands in for a PCI bus with an NVIDIA GPU."""
    device = folder / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    return folder


def _limiter(limits: Mapping[int, int]) -> Callable[[], None]:
    def limit() -> None:
        for which, soft in limits.items():
            resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))

    return limit
