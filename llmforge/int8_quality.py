"""What int8 weights cost in quality: the same rows measured with the weights before and after.

The result is saved beside the run, so that it is measured once for each checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from llmforge.checkpoint import Checkpoint
from llmforge.data.batches import evaluation_batches
from llmforge.data.example_batches import example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.errors import RunError
from llmforge.evaluation import open_split
from llmforge.generation import LoadedModel, load_checkpoint
from llmforge.interfaces import IGNORE_INDEX, Batch
from llmforge.progress import track
from llmforge.run.objective_loss import has_own_loss, take_over_loss
from llmforge.rundir.layout import run_of
from llmforge.rundir.results import keep_newest

MOST_ROWS = 64
_SECONDS = 10.0
_TOKENS_AT_ONCE = 2_048
_SPLIT = "validation"

BITS = "bits per byte"
LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class QualityLoss:
    """One figure with the weights as they were, and with int8.

    Attributes:
        metric: ``bits per byte``, or ``loss`` where the text's bytes are not known.
        before: with fp32 weights.
        after: with int8 weights.
        rows: how many rows of the context it was measured on.
    """

    metric: str
    before: float
    after: float
    rows: int

    def __str__(self) -> str:
        share = f" ({(self.after / self.before - 1) * 100:+.2f} %)" if self.before else ""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{self.before:.4f} → {self.after:.4f} {self.metric}{share} on {rows}"


def describe_int8(
    loaded: LoadedModel, *, note: Callable[[str], None], measure: bool = True
) -> None:
    """Note what int8 changed, if the weights of ``loaded`` are that: memory, speed and quality.

    Args:
        loaded: a model of any number format.
        note: shows a line.
        measure: whether to measure the quality where it is not known yet.
    """
    if loaded.int8 is None:
        return
    note(str(loaded.int8))
    found = None if loaded.weights else recorded_quality(loaded.checkpoint)
    if found is None and measure:
        try:
            found = measure_quality(loaded, notice=lambda _: None)
            if loaded.weights is None:
                record_quality(loaded.checkpoint, found)
        except Exception as error:  # data may be far away or gone, and the model works without
            note(f"int8: not compared with fp32: {_first_line(error)}")
            return
    if found is not None:
        note(f"int8: {found} of validation data")


def measure_quality(
    loaded: LoadedModel,
    *,
    notice: Callable[[str], None],
    rows: int = MOST_ROWS,
    seconds: float = _SECONDS,
) -> QualityLoss:
    """Measure ``loaded`` and the fp32 weights it was made from on the first validation rows.

    Args:
        loaded: an int8 model.
        notice: told what components want the user to know.
        rows: most rows.
        seconds: after which no further rows are begun.

    Raises:
        ForgeError: the data cannot be read, or the checkpoint not be loaded again.
    """
    split = open_split(loaded, _SPLIT, notice)
    original = load_checkpoint(
        loaded.checkpoint, device="cpu", dtype="fp32", weights=loaded.weights, notice=notice
    )
    models: list[Any] = [original.model, loaded.model]
    if isinstance(split, ExampleSplit):
        for model in models:
            take_over_loss(model, split.objective)
    sums, scored, counted = [0.0, 0.0], 0, 0
    started = time.monotonic()
    with torch.inference_mode(), track("comparing int8 with fp32", total=rows, unit="rows") as task:
        for batch in _batches(split, context=loaded.recipe.context, rows=rows):
            if counted and time.monotonic() - started > seconds:
                break
            for place, model in enumerate(models):
                loss, count = model.loss(batch)
                sums[place] += float(loss.reshape(-1)[0])
            scored += int(count)
            counted += _real_rows(batch)
            task.advance(len(batch["targets"]))
    return _quality(sums, scored, split=split, rows=counted)


def recorded_quality(checkpoint: Checkpoint) -> QualityLoss | None:
    """Return what was measured of ``checkpoint`` before; None when nothing usable was."""
    run = run_of(checkpoint.path)
    if run is None:
        return None
    try:
        rows = json.loads(run.int8.read_text(encoding="utf-8"))
        found = [row for row in rows if _names(row, checkpoint)]
        fields = ("metric", "before", "after", "rows")
        return QualityLoss(**{name: found[-1][name] for name in fields}) if found else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def record_quality(checkpoint: Checkpoint, quality: QualityLoss) -> None:
    """Save ``quality`` in the ``int8.json`` of the checkpoint's run, if that can be written."""
    run = run_of(checkpoint.path)
    if run is None:
        return
    row = {
        "checkpoint": checkpoint.path.name,
        "created": checkpoint.manifest.created,
        "step": checkpoint.step,
        "metric": quality.metric,
        "before": quality.before,
        "after": quality.after,
        "rows": quality.rows,
        "time": time.time(),
    }
    try:
        keep_newest(run.int8, [row], by=("checkpoint",))
    except RunError:  # it is measured again next time
        return


def quality_of(
    before: Mapping[str, float], after: Mapping[str, float], *, name: str, rows: int
) -> QualityLoss:
    """Return the loss of quality between two evaluations of a whole split.

    Args:
        before: metrics with fp32 weights.
        after: metrics with int8 weights.
        name: prefix of the metrics, such as ``val``.
        rows: of the split.
    """
    key = f"{name}/bits_per_byte"
    metric = BITS if key in before else LOSS
    key = key if key in before else f"{name}/loss"
    return QualityLoss(metric=metric, before=before[key], after=after[key], rows=rows)


def _names(row: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    same = row["checkpoint"] == checkpoint.path.name
    return same and bool(row["created"] == checkpoint.manifest.created)


def _batches(split: TokenSplit | ExampleSplit, *, context: int, rows: int) -> Iterator[Batch]:
    """Yield batches of the first rows."""
    size = max(1, min(rows, _TOKENS_AT_ONCE // context))
    if isinstance(split, TokenSplit):
        found = evaluation_batches(split, context=context, batch_size=size)
    else:
        found = example_evaluation_batches(split, context=context, batch_size=size)
    return islice(found, math.ceil(rows / size))


def _real_rows(batch: Batch) -> int:
    """Return the rows in which something is scored: a last batch may be filled up."""
    return int((batch["targets"] != IGNORE_INDEX).flatten(1).any(1).sum())


def _quality(
    sums: Sequence[float], scored: int, *, split: TokenSplit | ExampleSplit, rows: int
) -> QualityLoss:
    """Return nats as bits per byte, by the bytes that a token of the split has on average."""
    own_loss = isinstance(split, ExampleSplit) and has_own_loss(split.objective)
    metric, divisor = LOSS, float(scored)
    if split.n_bytes is not None and not own_loss:
        metric, divisor = BITS, math.log(2) * split.n_bytes * scored / (split.n_tokens - 1)
    before, after = (total / divisor for total in sums)
    return QualityLoss(metric=metric, before=before, after=after, rows=rows)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
