"""What trackers and uploads cost the steps of ``forge train``: with and without, taking turns.

    python benchmarks/courier_overhead.py                        # MLflow's server is down
    python benchmarks/courier_overhead.py --mlflow sqlite --log-every 10 --rounds 8 --json out.json
    python benchmarks/courier_overhead.py --trackers "" --storage s3 --checkpoint-every 50

Every round trains the same recipe once without trackers and storage and once with them, each time
in the other order, so that a busy moment of the machine hits both. ``--storage s3`` starts an S3
server (moto) beside the training, so the work of the service itself competes with the steps too;
checkpoints are then written in both runs. A step's time is the wall time
between two rows of ``timing.jsonl``; the first rows of a run do not count. The ratio is that of
the same round, with over without: median over the rounds, and the 95 % interval of the median by
bootstrap. Means show the whole cost, medians over the rows the cost of a usual step. Last comes
the share of its time that the step thread spends on logging, which is all that it does for
trackers and uploads, and outside the computation altogether.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RECIPE = """\
[model]
name = "transformer"
[model.transformer]
layers = {layers}
width = {width}
heads = 4
context = 128
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
path = "words.txt"
document = "line"
validation_fraction = 0.02
[train]
max_steps = {steps}
batch_size = 16
micro_batch_size = 16
precision = "fp32"
compile = false
log_every = {log_every}
"""


@dataclass(frozen=True)
class Steps:
    """How the steps of one run went: seconds for each, and shares of the step thread's time."""

    mean: float
    median: float
    logging: float
    outside: float


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description="what trackers and uploads cost the steps")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--warmup", type=int, default=20, help="steps that do not count")
    parser.add_argument("--log-every", type=int, default=1, help="1 tells every step's row")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 leaves it alone")
    parser.add_argument("--trackers", default="tensorboard,csv,mlflow", help="names; may be empty")
    parser.add_argument("--mlflow", choices=("dead", "sqlite"), default="dead")
    parser.add_argument("--storage", choices=("none", "file", "s3"), default="none")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps; 0 writes none")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    arguments = parser.parse_args()
    if arguments.storage != "none" and not arguments.checkpoint_every:
        parser.error("--storage needs --checkpoint-every: there is nothing to upload otherwise")

    rounds: list[tuple[Steps, Steps]] = []
    with tempfile.TemporaryDirectory() as name, storage(arguments.storage, Path(name)) as url:
        folder = Path(name)
        prepare(folder, arguments)
        for index in range(arguments.rounds):
            found = {}
            for tracked in (False, True) if index % 2 else (True, False):
                place = url if tracked else ""
                found[tracked] = train(
                    folder, arguments, name=f"{index}", tracked=tracked, storage=place
                )
            rounds.append((found[False], found[True]))
            print(f"round {index + 1}: {found[True].mean / found[False].mean:.4f}", flush=True)
    report(rounds, arguments)
    if arguments.json is not None:
        body = [{"without": asdict(left), "with": asdict(right)} for left, right in rounds]
        arguments.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def storage(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of a place for uploads, served as long as the context lasts; may be empty."""
    if kind != "s3":
        yield f"file://{folder / 'storage'}" if kind == "file" else ""
        return
    port = unused_port()
    endpoint = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            make_bucket(f"{endpoint}/benchmark")
            yield "s3://benchmark/runs"
        finally:
            server.terminate()


def make_bucket(url: str) -> None:
    """Make a bucket once the server answers."""
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the recipe and a text."""
    recipe = RECIPE.format(
        layers=arguments.layers,
        width=arguments.width,
        steps=arguments.steps,
        log_every=arguments.log_every,
    )
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmno", k=draw.randint(2, 9))) for _ in range(2000)]
    lines = (" ".join(draw.choices(words, k=20)) for _ in range(20_000))
    (folder / "words.txt").write_text("\n".join(lines), encoding="utf-8")


def train(
    folder: Path, arguments: argparse.Namespace, *, name: str, tracked: bool, storage: str
) -> Steps:
    """Train once and return how the steps went."""
    run_id = f"{'with' if tracked else 'without'}-{name}"
    trackers = [name for name in arguments.trackers.split(",") if name] if tracked else []
    settings = {"run.id": run_id, "tracker.names": json.dumps(trackers)}
    if arguments.checkpoint_every:
        settings["checkpoint.every"] = str(arguments.checkpoint_every)
    else:
        settings["checkpoint.enabled"] = "false"
    if storage:
        settings["storage.url"] = storage
    if arguments.mlflow == "dead":
        settings["tracker.mlflow.tracking_uri"] = f"http://127.0.0.1:{unused_port()}"
    given = [part for key, text in settings.items() for part in ("--set", f"{key}={text}")]
    threads = {"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {}
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "-q", "train", "recipe.toml", *given],
        cwd=folder,
        env={**os.environ, **threads, "FORGE_CACHE": "cache", "FORGE_RUN_ROOT": "runs"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"forge train failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return read_steps(folder / "runs" / run_id / "timing.jsonl", warmup=arguments.warmup)


def read_steps(path: Path, *, warmup: int) -> Steps:
    """Return how the steps of a run went, from its timing rows."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    before = [row for row in rows if row["step"] <= warmup]
    rows = rows[len(before) :]
    seconds = sum(row["seconds"] for row in rows)
    steps = rows[-1]["step"] - before[-1]["step"]
    logged = steps / len(rows)

    def share(*parts: str) -> float:
        spent = (row["seconds"] * row.get(f"{part}_share", 0.0) for row in rows for part in parts)
        return sum(spent) / seconds

    return Steps(
        mean=seconds / steps,
        median=statistics.median(row["seconds"] for row in rows) / logged,
        logging=share("logging"),
        outside=1.0 - share("compute", "data"),
    )


def report(rounds: Sequence[tuple[Steps, Steps]], arguments: argparse.Namespace) -> None:
    """Print the ratios with their intervals, and the step thread's shares."""
    store = {"dead": "server down", "sqlite": "SQLite file"}[arguments.mlflow]
    print(
        f"\ntrackers {arguments.trackers or 'none'} (mlflow: {store}); "
        f"storage {arguments.storage}, a checkpoint every {arguments.checkpoint_every} steps; "
        f"a row every {arguments.log_every}, {arguments.steps} steps, {len(rounds)} rounds, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':<34}{'without':>10}{'with':>10}{'ratio':>9}   95 % interval")
    for label, value in (("mean", "mean"), ("median over the rows", "median")):
        pairs = [(getattr(left, value), getattr(right, value)) for left, right in rounds]
        ratios = [right / left for left, right in pairs]
        low, high = interval(ratios)
        left, right = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        print(
            f"{f'ms a step, {label}':<34}{left:>10.2f}{right:>10.2f}"
            f"{statistics.median(ratios):>9.4f}   {low:.4f} to {high:.4f}"
        )
    for label, value in (("logging", "logging"), ("outside data and computation", "outside")):
        left, right = (
            statistics.median(getattr(side, value) for side in sides)
            for sides in zip(*rounds, strict=True)
        )
        print(f"{f'share, {label}':<34}{left:>10.3%}{right:>10.3%}")


def interval(values: Sequence[float], draws: int = 5000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def unused_port() -> int:
    """Return a port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
