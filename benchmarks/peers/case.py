"""What every contender is given, and what it reports."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

_TOKENS = 400_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A GPT-2-like model and how long it is trained.

    Attributes:
        folder: holds ``tokens.npy``, ``words.txt`` and ``tokenizer.json`` of the same text.
        warmup: steps before the clock starts.
        steps: steps that are timed.
        log_every: steps between two looks at the loss.
        checkpoint_every: steps between checkpoints, which only llmforge writes; 0 for none.
        threads: of PyTorch; 0 leaves it alone.
        clock: ``wall``, or ``cpu`` for the processor time of the process.
        default_model: train llmforge's own default architecture, where there is a choice.
        compiled: train with ``torch.compile``, where there is a choice.
    """

    layers: int
    width: int
    heads: int
    context: int
    batch: int
    vocabulary: int
    warmup: int
    steps: int
    folder: str
    log_every: int = 10
    checkpoint_every: int = 0
    threads: int = 0
    clock: str = "wall"
    default_model: bool = False
    compiled: bool = False

    @property
    def total_steps(self) -> int:
        """Steps a contender takes."""
        return self.warmup + self.steps

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch * self.context

    def to_json(self) -> str:
        """Return the case as text for a command line."""
        return json.dumps(asdict(self))


class Clock:
    """Takes the time when the warm-up ends and when the last step is done."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._now = time.process_time if case.clock == "cpu" else time.perf_counter
        self._began = self._ended = 0.0

    def after_step(self, step: int) -> None:
        """Be told that ``step`` (1-based) is done."""
        if step == self._case.warmup:
            self._began = self._now()
        elif step == self._case.total_steps:
            self._ended = self._now()

    def report(self, loss: float) -> None:
        """Print the result as one line of JSON, the last of the process."""
        seconds = self._ended - self._began
        result = {
            "tokens_per_second": self._case.steps * self._case.tokens_per_step / seconds,
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "loss": loss,
        }
        sys.stdout.flush()
        print(json.dumps(result), flush=True)


def write_text(folder: Path, vocabulary: int) -> None:
    """Write random words as text, as token ids, and a tokenizer that turns one into the other."""
    ids = np.random.default_rng(1).integers(vocabulary, size=_TOKENS, dtype=np.uint16)
    np.save(folder / "tokens.npy", ids)
    random.seed(1)
    words = [f"w{number}" for number in range(vocabulary)]
    lines = (" ".join(words[i] for i in ids[at : at + 100]) for at in range(0, _TOKENS, 100))
    (folder / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(words)},
            "unk_token": "w0",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def read_tokens(case: Case) -> np.ndarray:
    """Return the token ids, memory-mapped."""
    tokens: np.ndarray = np.load(Path(case.folder) / "tokens.npy", mmap_mode="r")
    return tokens
