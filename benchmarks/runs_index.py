"""How long ``forge runs`` takes below a root with very many runs.

    python benchmarks/runs_index.py [--runs 100000] [--rounds 5] [--root DIR] [--check]

Run directories are made from one record and recipe with other values, without training. Every
command is a process of its own, its output piped; times are medians in seconds of processor time
(``cpu``) and as a person waits (``wall``). The disk's caches are warm. ``--check`` exits with 1
when a bar on processor time is missed; ``--root`` keeps the runs for another time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPE = """[run]
root = "runs"
seed = {seed}
name = "{{model}}-{{profile}}-{{timestamp}}"
project = "wikitext"
tags = {tags}
notes = ""
log_level = "info"
log_file = "log.txt"

[model]
name = "transformer"

[model.transformer]
preset = "nano"
layers = {layers}
width = 128
heads = 4
context = 128
dropout = 0.1
rope_theta = 10000.0

[tokenizer]
name = "bpe"

[tokenizer.bpe]
vocab_size = 1024
min_frequency = 2
end_of_text = "<|endoftext|>"

[data]
name = "wikitext"

[data.wikitext]
subset = "wikitext-2-raw-v1"
offline_sample = true
timeout = 2.5

[train]
max_steps = 600
batch_size = 16
precision = "auto"
compile = "auto"
device = "cpu"
grad_clip = 1.0
log_every = 10

[optimizer]
name = "adamw"

[optimizer.adamw]
lr = {lr}
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
eps = 1e-08

[schedule]
name = "cosine"

[schedule.cosine]
warmup = 0.1
min_ratio = 0.0

[eval]
every = 100

[checkpoint]
every = 100
keep_last = 3
keep_best = 1

[tracker]
names = [
    "tensorboard",
]
on_error = "warn"

[generation]
name = "sampler"
prompts = [
    "The history of",
    "The city is",
]
samples = 1

[generation.sampler]
max_new_tokens = 60
temperature = 0.8
top_k = 50
stop = []
"""


@dataclass
class Command:
    """A command, its bar in seconds of processor time, and its times."""

    name: str
    arguments: Sequence[str]
    bar: float | None = None
    says: str = ""
    before: Callable[[], None] | None = None
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self, forge: Sequence[str]) -> None:
        """Run it once and note its times."""
        if self.before is not None:
            self.before()
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*forge, *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.wall.append(time.perf_counter() - begin)
        self.cpu.append(used.ru_utime + used.ru_stime)
        if process.returncode != 0 or self.says not in output:
            raise SystemExit(f"{self.name} failed ({process.returncode}):\n{output[-2000:]}")


def run_id(number: int) -> str:
    """Return the id of one of the synthetic runs."""
    return f"single_bs16_cw128_lr1e-03-{number * 2654435761 % 2**32:08x}"


def make_runs(root: Path, count: int) -> None:
    """Write ``count`` runs; one in a thousand crashed, one in fifty failed, the others finished."""
    draw = random.Random(1)
    completed = root / ".completed"
    completed.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        folder = root / run_id(number)
        folder.mkdir()
        lr = draw.choice([1e-4, 3e-4, 1e-3, 3e-3]) if number % 10 else draw.uniform(1e-4, 1e-2)
        tags = ["base"] if number % 4 == 0 else ["wide", "try"]
        values = {"seed": draw.randrange(5), "layers": draw.choice([2, 4, 6]), "lr": lr}
        recipe = RECIPE.format(**values, tags=json.dumps(tags))
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        state = "failed" if number % 50 == 1 else "running" if number % 1000 == 2 else "completed"
        record = _record(folder.name, number, loss=draw.uniform(3, 5), lr=lr)
        record |= {"state": state, "tags": tags}
        text = json.dumps(record, indent=1)
        (folder / "run.json").write_text(text, encoding="utf-8")
        if state == "completed":
            done = json.dumps(_completion(folder, record), indent=1)
            (completed / f"{folder.name}.json").write_text(done, encoding="utf-8")


def _record(name: str, number: int, *, loss: float, lr: float) -> dict[str, Any]:
    started = 1.7e9 + number * 60.0
    return {
        "run_id": name,
        "name": f"transformer-{number}",
        "attempt": 1,
        "restarts": 1,
        "exit_reason": "all 600 steps taken",
        "identity": {"hash": f"{number:064x}", "keys": {"optimizer.adamw.lr": lr}},
        "created": started,
        "started": started,
        "ended": started + 240,
        "step": 600,
        "total_steps": 600,
        "metrics": {
            "best": {"metric": "val/loss", "value": loss, "step": 500},
            "step": 600,
            "epoch": 1.064302,
            "tokens_seen": 1228800,
            "train/loss": loss - 0.1,
            "lr": 1e-6,
            "grad_norm": 0.358,
            "val/loss": loss + 0.05,
            "val/perplexity": 40.1,
            "val/bits_per_byte": 1.4,
            "state": "completed",
        },
        "heartbeat": {"time": started + 240, "host": "a", "boot_id": "b", "pid": 42},
        "provenance": {
            "command": ["forge", "train", "wikitext_tiny"],
            "packages": {f"package-{index}": "1.2.3" for index in range(10)},
            "git": {"commit": "0" * 40, "changed": {}},
            "seed": 1337,
        },
        "resolved": {"device": "cpu", "precision": "fp32", "micro_batch_size": 16},
        "fingerprints": {"data": "d" * 64, "tokenizer": "5" * 64},
        "goodput": {"wall_seconds": 240.0},
        "format_version": 1,
    }


def _completion(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    best = record["metrics"]["best"]
    return {
        "run_id": folder.name,
        "attempt": 1,
        "identity": record["identity"]["hash"],
        "state": "completed",
        "reason": record["exit_reason"],
        "steps": 600,
        "final_loss": record["metrics"]["val/loss"],
        "best_loss": best["value"],
        "best_step": best["step"],
        "started": record["started"],
        "ended": record["ended"],
        "directory": str(folder),
    }


def commands(root: Path, count: int) -> list[Command]:
    """Return the commands in the order in which they are measured; the first one indexes."""
    newest = run_id(count - 1)
    middle = root / run_id(count // 2)
    where = "val/loss < 3.3 and 'base' in tags"

    def touch() -> None:
        (root / "new-folder").mkdir(exist_ok=True)
        (root / "new-folder").rmdir()
        time.sleep(0.01)

    return [
        Command("runs list", ["runs", "list", "--limit", "50"], 0.5, says=newest),
        Command("runs list --where METRIC, TAG", ["runs", "list", "--where", where], 1.0, "single"),
        Command(
            "runs list --where RECIPE KEY",
            ["runs", "list", "--limit", "50", "--where", "optimizer.adamw.lr == 0.0003"],
            1.0,
            "single",
        ),
        Command(
            "runs list --sort val/loss",
            ["runs", "list", "--limit", "50", "--sort", "val/loss"],
            1.0,
            "single",
        ),
        Command("runs status", ["runs", "status"], says="crashed"),
        Command("runs show PREFIX", ["runs", "show", middle.name[:-1]], 0.3, says=middle.name),
        Command("runs list --refresh", ["runs", "list", "--limit", "50", "--refresh"], says=newest),
        Command("forge --version", ["--version"]),
        Command(
            "runs list, the root changed just now",
            ["runs", "list", "--limit", "50"],
            0.5,
            says=newest,
            before=touch,
        ),
        Command(
            "runs list --where METRIC, TAG, the same",
            ["runs", "list", "--where", where],
            1.0,
            says="single",
        ),
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="make the runs here, or use those that are here")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = options.root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["FORGE_RUN_ROOT"] = str(root)
        if not (root / ".completed").exists():
            begin = time.perf_counter()
            make_runs(root, options.runs)
            print(f"made {options.runs:,} runs in {time.perf_counter() - begin:.0f} s")
        shutil.rmtree(root / ".index", ignore_errors=True)
        script = shutil.which("forge", path=str(Path(sys.executable).parent))
        forge = [script] if script else [sys.executable, "-m", "llmforge"]
        first = Command("the first look, which indexes", ["runs", "list", "--limit", "50"])
        first.run(forge)
        measured = commands(root, options.runs)
        for _ in range(options.rounds):
            time.sleep(2.5)  # a directory that changed just now is listed again
            subprocess.run([*forge, "runs", "status"], stdout=subprocess.DEVNULL, check=True)
            for command in measured:
                command.run(forge)
        size = (root / ".index" / "runs.sqlite3").stat().st_size
    met = True
    print(f"{'command':<40}{'cpu':>7}{'wall':>7}   bar")
    for command in [first, *measured]:
        cpu, wall = statistics.median(command.cpu), statistics.median(command.wall)
        verdict = ""
        if command.bar is not None:
            ok = cpu <= command.bar
            met &= ok
            verdict = f"{command.bar:.1f}: {'met' if ok else 'MISSED'}"
        print(f"{command.name:<40}{cpu:>7.2f}{wall:>7.2f}   {verdict}".rstrip())
    print(f"the index has {size / 1e6:.0f} MB")
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
