"""Measuring a model on a whole split: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from llmforge.data.batches import evaluation_batches
from llmforge.data.split import TokenSplit
from llmforge.interfaces import Batch


def evaluate(
    compute: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    split: TokenSplit,
    *,
    name: str,
    context: int,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Return ``{name}/loss`` (nats per token), perplexity and bits per byte of a split.

    Every token but the first is scored once, in windows of ``context`` tokens. Bits per byte
    divide by the UTF-8 length of the text, so they compare across tokenizers; data that came as
    tokens has none.

    Args:
        compute: summed loss and target count of a batch; halves nothing, may raise OOM.
        split: the tokens and their text's length.
        name: prefix of the metrics: ``val`` or ``test``.
        context: window length in tokens.
        batch_size: windows computed at once; on running out of memory it is halved.
        stop: asked before each batch.

    Returns:
        The metrics, or None when ``stop`` said so.
    """
    while True:
        batches = evaluation_batches(split, context=context, batch_size=batch_size)
        try:
            totals = _totals(compute, batches, stop=stop)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        return None if totals is None else _metrics(*totals, split=split, name=name)


def _totals(
    compute: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    batches: Iterable[Batch],
    *,
    stop: Callable[[], bool],
) -> tuple[float, int] | None:
    """Sum on the device and read once; None when stopped."""
    loss_sum: torch.Tensor | None = None
    count: torch.Tensor | None = None
    for batch in batches:
        if stop():
            return None
        loss, targets = compute(batch)
        loss = loss.double() if loss.device.type != "mps" else loss
        loss_sum = loss if loss_sum is None else loss_sum + loss
        count = targets if count is None else count + targets
    if loss_sum is None or count is None:
        raise ValueError("nothing to evaluate")
    return float(loss_sum.item()), int(count.item())


def _metrics(loss_sum: float, count: int, *, split: TokenSplit, name: str) -> dict[str, float]:
    loss = loss_sum / count
    values = {f"{name}/loss": loss, f"{name}/perplexity": math.exp(min(loss, 700.0))}
    if split.n_bytes is not None:
        values[f"{name}/bits_per_byte"] = loss_sum / math.log(2) / split.n_bytes
    return values
