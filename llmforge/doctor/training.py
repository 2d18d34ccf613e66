"""A training in miniature: a tiny model learns, is saved, and resumes in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.doctor.finding import Finding, ok, problem

_SECONDS = 120.0  # it takes 5; only a machine that hangs or swaps takes this long
_RUN = "check"
_STEPS = 24
_STOP_AT = 12
_FALLS_TO = 0.8  # of the first loss: text of one repeated sentence is learned at once

_RECIPE = f"""\
[run]
id = "{_RUN}"
root = "runs"
[model]
name = "transformer"
[model.transformer]
layers = 1
width = 64
heads = 2
context = 32
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
train = "train.txt"
validation = "validation.txt"
document = "line"
[train]
max_steps = {_STEPS}
batch_size = 8
log_every = 4
system_every = 0
compile = false
[optimizer.adamw]
lr = 3e-3
[eval]
every = {_STEPS}
[checkpoint]
every = {_STOP_AT}
[tracker]
names = []
"""
_TEXT = "A tiny model reads this line until it knows it by heart.\n" * 200


def check_training() -> Iterator[Finding]:
    """Yield whether training, saving and resuming work here; everything is deleted afterwards."""
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(
            prefix="forge-doctor-", ignore_cleanup_errors=True
        ) as folder:
            result, failure = _trained(Path(folder))
    except OSError as error:
        remedy = "make room there, or choose another directory with TMPDIR"
        yield problem("training.steps", f"no temporary directory: {error}", remedy=remedy)
        return
    if result is None:
        remedy = "see the problems above; else: forge --debug train wikitext_tiny --profile test"
        yield problem(
            "training.steps", f"a tiny model could not be trained: {failure}", remedy=remedy
        )
        return
    yield from judged(result, seconds=time.monotonic() - start)


def judged(result: Mapping[str, Any], *, seconds: float) -> Iterator[Finding]:
    """Yield what a training's ``result`` says.

    Args:
        result: ``first`` and ``last`` loss, ``device``, and the step it ``resumed`` from.
        seconds: that it took.
    """
    first, last = result["first"], result["last"]
    falls = f"{first:.2f} to {last:.2f}"
    if not last < first * _FALLS_TO:
        remedy = "reinstall PyTorch; on a GPU see whether --set train.device=cpu learns"
        message = f"a tiny model does not learn on {result['device']}: its loss went from {falls}"
        yield problem("training.steps", message, remedy=remedy)
        return
    if result["resumed"] != _STOP_AT:
        remedy = "see that temporary files are kept while a process runs"
        message = f"a tiny model did not resume from step {_STOP_AT}, but {result['resumed']}"
        yield problem("training.resume", message, remedy=remedy)
        return
    yield ok(
        "training.steps",
        f"a tiny model learns on {result['device']} (loss {falls}), and resumed from the "
        f"checkpoint of step {_STOP_AT}; {seconds:.1f} s",
    )


def _trained(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Train in ``folder`` by another process; return what came out, or why nothing did."""
    (folder / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    for name in ("train.txt", "validation.txt"):
        (folder / name).write_text(_TEXT, encoding="utf-8")
    away = ("FORGE_RUN_ROOT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS")
    kept = {name: text for name, text in os.environ.items() if name not in away}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmforge.doctor.tiny_run", str(_STOP_AT)],
        cwd=folder,
        # so small a model is slower on several threads
        env={**kept, "FORGE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=os.name != "nt",
    )
    try:
        output, errors = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"it was not done after {_SECONDS:.0f} s"
    finally:
        _end(process)
    lines = errors.strip().splitlines()
    if process.returncode < 0:
        return None, f"its process was killed by {signal.Signals(-process.returncode).name}"
    if process.returncode:
        return None, lines[-1] if lines else f"its process ended with {process.returncode}"
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found, ""


def _end(process: subprocess.Popen[str]) -> None:
    """Leave no process behind, whatever ended the wait."""
    if process.poll() is None:
        process.kill()
        process.communicate()
