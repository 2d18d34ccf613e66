"""Writes ``docs/captured``: real output of real runs, for the pages to show.

``python docs/captures.py`` trains ``wikitext_tiny`` on the bundled sample in a temporary directory
(about a minute on two cores) and keeps what the commands print, apart from the directory.
``budget.txt`` is the run at the end of *The first plugin*, typed by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
CAPTURED = DOCS / "captured"
FORGE = Path(sys.executable).with_name("forge")


def run(command: str, *, cwd: Path, input_: str | None = None) -> str:
    """Run ``forge`` with the words of ``command``; return its output, errors included."""
    done = subprocess.run(
        [FORGE, *command.split()[1:]],
        cwd=cwd,
        env={
            **os.environ,
            "FORGE_OFFLINE": "1",
            "FORGE_CACHE": str(cwd / "cache"),
            "FORGE_RUN_ROOT": "runs",
            "COLUMNS": "100",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        input=input_,
        text=True,
        check=False,
    )
    print(f"$ {command}", done.returncode)
    return done.stdout.replace(f"{cwd}/", "")


def keep(name: str, text: str, *, lines: slice = slice(None)) -> None:
    """Write lines of a command's output into a file that pages include."""
    chosen = [line.rstrip() for line in text.splitlines()][lines]
    (CAPTURED / name).write_text("\n".join(chosen).strip("\n") + "\n", encoding="utf-8")


def main() -> None:
    """Run everything and keep what it printed."""
    CAPTURED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        cwd = Path(directory)
        trained = run("forge train wikitext_tiny", cwd=cwd).splitlines()
        steps = [line for line in trained if line.startswith(("step", "evaluat"))]
        tail = [line for line in trained if line.startswith(("single", "  best", "  final"))]
        keep("train.txt", "\n".join([*trained[2:7], *steps[:4], "…", *steps[-3:], *tail]))
        keep("mistake.txt", run("forge train wikitext_tiny --set optimzer.lr=3 -m nanno", cwd=cwd))
        keep("list.txt", run("forge runs list", cwd=cwd))


if __name__ == "__main__":
    main()
