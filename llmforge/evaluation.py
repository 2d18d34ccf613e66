"""Measuring a checkpoint on a split of its recipe's data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmforge.checkpoint import Checkpoint
from llmforge.data.tokens import TokenSplit, prepare_tokens
from llmforge.errors import DataError
from llmforge.generate import LoadedModel, load_checkpoint
from llmforge.interfaces import Batch
from llmforge.plugins import build_manager, load
from llmforge.run.evaluation import evaluate
from llmforge.run.parts import open_data
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_json

_TOKENS_AT_ONCE = 8192
_PREFIXES = {"validation": "val"}


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    *,
    split: str = "validation",
    device: str = "auto",
    dtype: str = "auto",
    notice: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return loss, perplexity and bits per byte of ``checkpoint`` on all of ``split``.

    Args:
        checkpoint: what to measure.
        split: a split of the recipe's data: ``train``, ``validation`` or ``test``.
        device: where to compute.
        dtype: number format of the weights.
        notice: told what the user should know, such as a damaged cache entry.

    Raises:
        DataError: the data has no such split.
        CheckpointError: the checkpoint cannot be loaded.
    """
    loaded = load_checkpoint(checkpoint, device=device, dtype=dtype, notice=notice)
    tokens = _tokens(loaded, split, notice)
    model = loaded.model

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return model.loss({name: tensor.to(loaded.device) for name, tensor in batch.items()})

    name = _PREFIXES.get(split, split)
    with torch.inference_mode():
        values = evaluate(
            compute,
            tokens,
            name=name,
            context=loaded.recipe.context,
            batch_size=max(1, _TOKENS_AT_ONCE // loaded.recipe.context),
        )
    assert values is not None
    return {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "split": split,
        "tokens": tokens.n_tokens,
        "device": loaded.device,
        "dtype": loaded.dtype,
        "time": time.time(),
        **values,
    }


def record_evaluation(checkpoint: Checkpoint, result: dict[str, Any]) -> Path:
    """Keep ``result`` in the ``evaluation.json`` of the checkpoint's run, and return the file.

    The file holds the newest result per checkpoint and split.
    """
    path = RunDirectory(checkpoint.path.parent.parent).evaluation
    try:
        earlier: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        earlier = []
    key = (result["checkpoint"], result["split"])
    kept = [item for item in earlier if (item["checkpoint"], item["split"]) != key]
    write_json(path, [*kept, result])
    return path


def _tokens(loaded: LoadedModel, split: str, notice: Callable[[str], None]) -> TokenSplit:
    selection = loaded.recipe.selected("data")
    manager = build_manager([load("data", selection.name)(selection.options)])
    data = open_data(manager, loaded.run)
    splits = prepare_tokens(
        data, loaded.tokenizer, cache=loaded.run.cache, notice=notice, check_stop=lambda: None
    )
    if split not in splits:
        raise DataError(f"the data has no split '{split}', only {', '.join(splits)}")
    return splits[split]
