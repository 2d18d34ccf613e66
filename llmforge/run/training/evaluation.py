"""Measuring a model on a whole split: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import psutil
import torch

from llmforge.data.batches import evaluation_batches
from llmforge.data.example_batches import example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.distributed import Alone, Place, Team
from llmforge.errors import TrainingError
from llmforge.interfaces import IGNORE_INDEX, Batch, LanguageModel
from llmforge.progress import Task, track
from llmforge.run.objective_loss import has_own_loss

_ALONE = Alone()

_TOKENS_A_THREAD = 2_048  # so many still cache well: on two threads 4,096 were fastest
_FEWEST_TOKENS, _MOST_TOKENS = 4_096, 32_768
_ROOM = 0.5  # of the memory that is free; the optimizer's state may still want the rest
_BYTES = 8  # of an activation: fp32, and a copy of it


def rows_at_once(
    model: LanguageModel, *, context: int, device: torch.device, least: int = 1, sharing: int = 1
) -> int:
    """Return how many windows to evaluate at once: by their tokens, fewer where memory is short.

    Without gradients an activation is freed when the next layer has it. Here each layer's count as
    if they were kept, and so do whole logits, which leaves room for models that need them.

    Args:
        model: the model, on ``device``; its weights may be parts of the whole ones.
        context: window length in tokens.
        device: where it is evaluated.
        least: windows that are known to fit, as many as are trained on at once.
        sharing: processes that share the memory of a CPU.
    """
    tokens = _MOST_TOKENS
    if device.type == "cpu":
        tokens = min(max(_TOKENS_A_THREAD * torch.get_num_threads(), _FEWEST_TOKENS), _MOST_TOKENS)
    rows = max(1, tokens // context)
    activations = sum(weight.shape[0] for _, weight in model.named_parameters() if weight.dim() > 1)
    if not activations:  # the weights' sizes cannot be seen here
        return least
    room = _free_memory(device, sharing) * _ROOM
    while rows > least and rows * context * activations * _BYTES > room:
        rows //= 2
    return max(rows, least)


def _free_memory(device: torch.device, sharing: int) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available) // sharing


def evaluate(
    compute: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    split: TokenSplit | ExampleSplit,
    *,
    name: str,
    context: int,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
    team: Team = _ALONE,
    fewer: Callable[[int], None] = lambda _: None,
) -> dict[str, float] | None:
    """Return ``{name}/loss`` (nats per target), perplexity and bits per byte of a split.

    Of text every token but the first is scored once, in windows of ``context`` tokens, of examples
    what is learned of them. Bits per byte
    divide by the UTF-8 length of the text, so they compare across tokenizers; data that came as
    tokens has none. Objectives with a loss of their own have what they measure instead.

    Args:
        compute: summed loss, or several sums, and target count of a batch; halves nothing, may
            raise OOM.
        split: the tokens and their text's length.
        name: prefix of the metrics: ``val`` or ``test``.
        context: window length in tokens.
        batch_size: windows computed at once, at most: they are divided evenly over the calls. On
            running out of memory it is halved, unless other ranks wait.
        stop: asked before each batch; the same on all ranks.
        team: ranks that take turns at the batches; all get the same values.
        fewer: told the windows that are computed at once from now on, when they did not fit.

    Returns:
        The metrics, or None when ``stop`` said so.
    """
    if isinstance(split, TokenSplit):
        windows = -(-(split.n_tokens - 1) // context)
    else:
        windows = split.sequences
    batch_size = min(batch_size, windows)
    while True:
        batches = _batches(split, context=context, batch_size=batch_size, team=team)
        try:
            with track(f"evaluating {name}", total=split.n_tokens - 1, unit="tokens") as task:
                counted = _counted(batches, task)
                totals = _totals(compute, own_batches(counted, team.place), stop=stop)
        except torch.OutOfMemoryError as error:
            if team.place.world_size > 1:
                raise TrainingError(
                    f"out of memory evaluating {batch_size} sequences at once",
                    remedy=f"set eval.batch_size to less than {batch_size}",
                ) from error
            if batch_size == 1:
                raise
            batch_size //= 2
            fewer(batch_size)
            continue
        if totals is None:
            return None
        *sums, count = team.total(totals).tolist()
        return _metrics(sums, int(count), split=split, name=name)


def _batches(
    split: TokenSplit | ExampleSplit, *, context: int, batch_size: int, team: Team
) -> Iterator[Batch]:
    ranks = team.place.world_size
    if isinstance(split, TokenSplit):
        return evaluation_batches(split, context=context, batch_size=batch_size, ranks=ranks)
    return example_evaluation_batches(split, context=context, batch_size=batch_size, ranks=ranks)


def _totals(
    compute: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    batches: Iterable[Batch],
    *,
    stop: Callable[[], bool],
) -> torch.Tensor | None:
    """Sum on the device and read once, losses and count in fp64; None when stopped."""
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
    sums = loss_sum.reshape(-1).tolist()
    return torch.tensor([*sums, count.item()], dtype=torch.float64)


def _counted(batches: Iterable[Batch], task: Task) -> Iterator[Batch]:
    """Yield the batches of all ranks; those that are through count as done."""
    for batch in batches:
        yield batch
        task.advance(batch["targets"].numel())


def own_batches(batches: Iterable[Batch], place: Place) -> Iterator[Batch]:
    """Yield every ``world_size``-th batch from ``rank`` on.

    All ranks get the same number, so that they compute in lockstep: where the batches do not
    divide evenly, some get one more in which nothing is scored.
    """
    turn: list[Batch] = []
    for batch in batches:
        turn.append(batch)
        if len(turn) == place.world_size:
            yield turn[place.rank]
            turn = []
    if turn:
        last = turn[-1]
        unscored = {**last, "targets": torch.full_like(last["targets"], IGNORE_INDEX)}
        yield turn[place.rank] if place.rank < len(turn) else unscored


def _metrics(
    sums: Sequence[float], count: int, *, split: TokenSplit | ExampleSplit, name: str
) -> dict[str, float]:
    loss_sum, *measured = sums
    loss = loss_sum / count
    values = {f"{name}/loss": loss}
    if isinstance(split, ExampleSplit) and has_own_loss(split.objective):
        pairs = zip(split.objective.measures, measured, strict=True)
        return values | {f"{name}/{key}": found / count for key, found in pairs}
    if isinstance(split, TokenSplit) or split.objective.form != "classify":  # a label is no token
        values[f"{name}/perplexity"] = math.exp(min(loss, 700.0))
    if split.n_bytes is not None:
        values[f"{name}/bits_per_byte"] = loss_sum / math.log(2) / split.n_bytes
    return values
