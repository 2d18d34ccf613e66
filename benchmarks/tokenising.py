"""How fast text becomes tokens, in how much memory, and how soon a finished cache is open.

    python benchmarks/tokenising.py [--megabytes 50 500] [--rounds 1] [--markdown]

The text is the bundled sample with its lines in random order, some words of each from elsewhere,
and among them made-up words and numbers, so that it has as many different words as real text of
that size. A byte-level BPE is trained on the first 20 MB of it and given to every contender:

- ``forge data prepare``, the command as it is, with an empty cache;
- ``tokenizers``: a loop over lines with ``encode_batch``, the ids written as uint16;
- ``datasets``: ``map`` with as many processes as there are cores, where it is installed.

Each runs in processes of its own. ``MB/s a core`` is text by the processor time (user and system)
of all of them, start and imports included; ``peak`` is their memory (PSS) together, looked at ten
times a second. The other contenders get the first 50 MB only: their rate does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

TRAINED_ON = 20_000_000
MOST_FOR_OTHERS = 50
NOVEL, FOREIGN = 0.03, 0.12
"""Shares of words that are made up, and that are from elsewhere in the text."""

RECIPE = """
[model]
name = "transformer"
[model.transformer]
preset = "nano"
context = 128
[tokenizer]
name = "hf"
[tokenizer.hf]
source = {tokenizer}
end_of_text = "<|endoftext|>"
[data]
name = "text"
[data.text]
path = {text}
[train]
max_steps = 1
batch_size = 1
"""

LOOP = """
import sys
import numpy as np
import tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
def encode(lines, out):
    for encoding in tokenizer.encode_batch(lines, add_special_tokens=False):
        out.write(np.asarray(encoding.ids, dtype="<u2").tobytes())
with open(sys.argv[1], encoding="utf-8") as file, open(sys.argv[3], "wb") as out:
    lines = []
    for line in file:
        lines.append(line)
        if len(lines) == 1000:
            encode(lines, out)
            lines = []
    encode(lines, out)
"""

MAP = """
import os, sys
import datasets
import tokenizers
datasets.disable_progress_bars()
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
def encode(rows):
    found = tokenizer.encode_batch(rows["text"], add_special_tokens=False)
    return {"ids": [encoding.ids for encoding in found]}
cache = sys.argv[3]
rows = datasets.load_dataset("text", data_files=sys.argv[1], split="train", cache_dir=cache)
rows.map(encode, batched=True, num_proc=os.cpu_count(), remove_columns=["text"])
"""

OPEN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from llmforge.data.tokens import prepare_tokens
from llmforge_plugins.data._text import TextData
from llmforge_plugins.tokenizers._hf import build
options = SimpleNamespace(document="file", encoding="utf-8", validation_fraction=0.05)
source = SimpleNamespace(source=sys.argv[2], revision="main", end_of_text="<|endoftext|>")
cache = Path(sys.argv[3])
tokenizer = build(source, SimpleNamespace(cache=cache, notice=print, resolved={}))
started = time.perf_counter()
data = TextData({"train": [Path(sys.argv[1])]}, options, cache=cache)
opened = time.perf_counter()
prepare_tokens(data, tokenizer, cache=cache, notice=print, check_stop=lambda: sys.exit("it reads"))
print(opened - started, time.perf_counter() - opened)
"""


@dataclass(frozen=True)
class Result:
    """What a command took: bytes of text and of memory, seconds."""

    text: int
    processor: float
    wall: float
    memory: int


def main() -> None:
    """Measure every contender and size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--without-others", action="store_true", help="measure llmforge alone")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    print_row = _markdown_row if arguments.markdown else _plain_row
    print_row("contender", "vocabulary", "MB", "MB/s a core", "MB/s", "peak MB", "opening")
    if arguments.markdown:
        print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = {size: _write_text(folder / f"{size}.txt", size) for size in arguments.megabytes}
        for vocabulary in arguments.vocabularies:
            tokenizer = _train(folder / str(vocabulary), vocabulary, max(texts.items())[1])
            for size, text in texts.items():
                results = [_forge(text, tokenizer, folder) for _ in range(arguments.rounds)]
                opening = _opening(text, tokenizer, folder / "cache")
                row = _numbers([result for result, _ in results])
                print_row("forge data prepare", f"{vocabulary:,}", f"{size}", *row, opening)
            if not arguments.without_others:
                small = _beginning(max(texts.items())[1], folder / "small.txt")
                for name, results in _others(small, tokenizer, folder, arguments.rounds):
                    size = results[0].text // 1_000_000
                    print_row(name, f"{vocabulary:,}", f"{size}", *_numbers(results), "")


def _plain_row(*cells: str) -> None:
    name, *others = cells
    widths = (11, 6, 12, 7, 8, 26)
    print(f"{name:<26}" + "".join(f"{c:>{w}}" for c, w in zip(others, widths, strict=True)))
    sys.stdout.flush()


def _markdown_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _numbers(results: list[Result]) -> tuple[str, str, str]:
    rate = statistics.median(each.text / each.processor for each in results) / 1e6
    wall = statistics.median(each.text / each.wall for each in results) / 1e6
    return f"{rate:.1f}", f"{wall:.1f}", f"{max(each.memory for each in results) / 1e6:.0f}"


def _write_text(path: Path, megabytes: int) -> Path:
    from llmforge_plugins.data._wikitext import SAMPLE

    lines = [line for line in _lines(SAMPLE / "train.txt") if line.strip()]
    words = [word for line in lines for word in line.split()]
    chance = random.Random(7)
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        while written < megabytes * 1_000_000:
            line = " ".join(_other_words(chance.choice(lines).split(" "), words, chance))
            written += file.write(line if line.endswith("\n") else f"{line}\n")
    modified = time.time() - 60  # as a file that was there before
    os.utime(path, (modified, modified))
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _other_words(line: list[str], words: list[str], chance: random.Random) -> Iterator[str]:
    for word in line:
        draw = chance.random()
        if draw < NOVEL / 2:
            yield "".join(chance.choices("etaoinshrdlucmfwypvbgkjqxz", k=chance.randint(3, 12)))
        elif draw < NOVEL:
            yield str(chance.randrange(10 ** chance.randint(1, 7)))
        else:
            yield chance.choice(words) if draw < NOVEL + FOREIGN else word


def _beginning(text: Path, path: Path) -> Path:
    with text.open("rb") as file:
        path.write_bytes(file.read(MOST_FOR_OTHERS * 1_000_000))
    return path


def _train(folder: Path, vocabulary: int, text: Path) -> Path:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with text.open("rb") as file:
        content = file.read(TRAINED_ON).decode("utf-8", errors="ignore")
    inner.train_from_iterator(content.splitlines(keepends=True), trainer)
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def _forge(text: Path, tokenizer: Path, folder: Path) -> tuple[Result, Path]:
    recipe = folder / "recipe.toml"
    names = {"tokenizer": json.dumps(str(tokenizer)), "text": json.dumps(str(text))}
    recipe.write_text(RECIPE.format(**names), encoding="utf-8")
    cache = folder / "cache"
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    command = [sys.executable, "-m", "llmforge", "data", "prepare", str(recipe)]
    return _measured(command, text, FORGE_CACHE=str(cache)), cache


def _others(
    text: Path, tokenizer: Path, folder: Path, rounds: int
) -> Iterator[tuple[str, list[Result]]]:
    from importlib.util import find_spec

    contenders = {"tokenizers, encode_batch": LOOP}
    if find_spec("datasets") is not None:
        contenders["datasets, map"] = MAP
    for name, script in contenders.items():
        results = []
        for number in range(rounds):
            out = folder / f"{len(name)}-{number}-{tokenizer.parent.name}"
            command = [sys.executable, "-c", script, str(text), str(tokenizer), str(out)]
            results.append(_measured(command, text))
        yield name, results


def _opening(text: Path, tokenizer: Path, cache: Path) -> str:
    command = [sys.executable, "-c", OPEN, str(text), str(tokenizer), str(cache)]
    found = []
    for _ in range(5):
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append([float(seconds) * 1000 for seconds in output.split()])
    data, tokens = (statistics.median(column) for column in zip(*found, strict=True))
    return f"{data:.1f} ms + {tokens:.1f} ms"


def _measured(command: list[str], text: Path, **environment: str) -> Result:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.1)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(text.stat().st_size, processor, wall, peak)


def _memory(pid: int) -> int:
    """Return the memory of a process and all below it, shared pages divided between them."""
    total = 0
    try:
        for process in [(top := psutil.Process(pid)), *top.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # one of them has just ended
        return 0
    return total


if __name__ == "__main__":
    main()
