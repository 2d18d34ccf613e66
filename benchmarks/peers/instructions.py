"""What every contender of ``fine_tuning.py`` is given, and what it reports."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

END = 0
"""Id of the token that ends a prompt and an answer."""
IGNORED = -100
"""Label of a token that is not scored."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """A GPT-2-like model and the rows it is fine-tuned on.

    Attributes:
        folder: holds ``rows.json``, ``rows.jsonl`` and ``tokenizer.json``, all of the same rows.
        warmup: steps before the clock starts.
        steps: steps that are timed.
        threads: of PyTorch; 0 leaves it alone.
        clock: ``wall``, or ``cpu`` for the processor time of the process.
        precision: of llmforge; the others compute in fp32.
        lora: rank of LoRA on all linear maps of the blocks; 0 trains all weights.
    """

    layers: int
    width: int
    context: int
    batch: int
    vocabulary: int
    warmup: int
    steps: int
    folder: str
    threads: int = 0
    clock: str = "wall"
    precision: str = "fp32"
    lora: int = 0

    @property
    def heads(self) -> int:
        """Attention heads, each 64 wide."""
        return self.width // 64

    @property
    def total_steps(self) -> int:
        """Steps a contender takes."""
        return self.warmup + self.steps

    def to_json(self) -> str:
        """Return it as text for a command line."""
        return json.dumps(asdict(self))


class Meter:
    """Times the steps after the warm-up and counts the tokens in them.

    Real tokens are those of the rows, never padding; scored tokens those of the answers.
    """

    def __init__(self, case: Instructions) -> None:
        self._case = case
        self._now = time.process_time if case.clock == "cpu" else time.perf_counter
        self.step = 0  # steps done
        self._real = self._scored = 0
        self._began = self._ended = 0.0

    def count(self, *, real: int, scored: int) -> None:
        """Be told of a batch that is about to be computed."""
        if self._case.warmup <= self.step < self._case.total_steps:
            self._real += real
            self._scored += scored

    def after_step(self, step: int) -> None:
        """Be told that ``step`` (1-based) is done."""
        self.step = step
        if step == self._case.warmup:
            self._began = self._now()
        elif step == self._case.total_steps:
            self._ended = self._now()

    def report(self, loss: float) -> None:
        """Print the result as one line of JSON, the last of the process."""
        seconds = self._ended - self._began
        result = {
            "real_tokens_per_second": self._real / seconds,
            "scored_tokens_per_second": self._scored / seconds,
            "tokens_per_step": self._real / self._case.steps,
            "seconds_per_step": seconds / self._case.steps,
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "loss": loss,
        }
        sys.stdout.flush()
        print(json.dumps(result), flush=True)


def write_rows(folder: Path, *, count: int, vocabulary: int, context: int) -> dict[str, float]:
    """Write random instructions as ids, as text, and a tokenizer that turns one into the other.

    The length of a row, ends included, is log-normal with median 67 and sigma 0.8, from 8 to the
    context; three to six tenths of it are the prompt. Returns what they are like.
    """
    draw = np.random.default_rng(1)
    lengths = np.clip(np.exp(draw.normal(np.log(67), 0.8, count)).round(), 8, context).astype(int)
    rows = []
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for length in lengths.tolist():
            asked = max(1, round(length * draw.uniform(0.3, 0.6)) - 1)
            prompt = draw.integers(1, vocabulary, asked).tolist()
            answer = draw.integers(1, vocabulary, length - asked - 2).tolist()
            rows.append([prompt, answer])
            said = {"prompt": _words(prompt), "completion": _words(answer)}
            file.write(json.dumps(said) + "\n")
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    end = {"id": END, "content": "w0", "special": True, "normalized": False}
    sides = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{**end, **sides}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {f"w{number}": number for number in range(vocabulary)},
            "unk_token": "w0",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return {"rows": count, "median": float(np.median(lengths)), "mean": float(lengths.mean())}


def _words(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def read_rows(case: Instructions) -> list[dict[str, list[int]]]:
    """Return the rows as ``input_ids``, ``labels`` and ``completion_mask``."""
    rows = []
    for prompt, answer in json.loads((Path(case.folder) / "rows.json").read_text("utf-8")):
        asked, told = [*prompt, END], [*answer, END]
        rows.append(
            {
                "input_ids": asked + told,
                "labels": [IGNORED] * len(asked) + told,
                "completion_mask": [0] * len(asked) + [1] * len(told),
            }
        )
    return rows
