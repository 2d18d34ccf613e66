"""A contender in a process of its own, so that what it loads or caches disturbs no other."""

from __future__ import annotations

import os
import subprocess
import sys


def in_own_process(script: str, contender: str, described: str, **environment: str) -> str:
    """Run ``script --work contender described`` and return the last line it printed.

    Nothing is downloaded, and the tokenizers' own threads are off for everyone.

    Args:
        script: the benchmark.
        contender: which one it shall be.
        described: what to do, as JSON.
        environment: variables besides.
    """
    done = subprocess.run(
        [sys.executable, script, "--work", contender, described],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}")
    lines = done.stdout.splitlines()
    return lines[-1] if lines else ""
