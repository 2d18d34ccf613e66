"""Fresh virtual environments that see the packages of this one, llmforge among them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``directory``."""

    directory: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    def run(
        self, *arguments: str | Path, cwd: Path, expect: int = 0, timeout: float = 280.0
    ) -> subprocess.CompletedProcess[str]:
        """Run its Python with ``arguments``; fail with the output on another exit code."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd,
            env={**kept, "NO_COLOR": "1", "COLUMNS": "200", "FORGE_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        assert done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def install(self, *what: str | Path, cwd: Path) -> None:
        """Install with pip, without network and without touching what is there."""
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
        local = ("--no-index", "--no-deps", "--no-build-isolation")
        self.run("-m", "pip", "install", *quiet, *local, *what, cwd=cwd)

    def forge(
        self, *arguments: str | Path, cwd: Path, expect: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``forge``."""
        return self.run("-m", "llmforge", *arguments, cwd=cwd, expect=expect)


def fresh_environment(directory: Path) -> Environment:
    """Make an environment that falls back on the packages of the running one.

    Torch is too large to install again, so a path file leads to the packages around here;
    ``addsitedir`` also follows their own path files, as an editable llmforge needs.
    """
    venv.create(directory, with_pip=False, symlinks=True)
    environment = Environment(directory)
    found = sysconfig.get_path("purelib", vars={"base": str(directory)})
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    lines = [f"import site; site.addsitedir({path!r})\n" for path in packages]
    (Path(found) / "around.pth").write_text("".join(lines), encoding="utf-8")
    assert Path(sys.executable) != environment.python
    return environment
