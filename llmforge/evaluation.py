"""Measuring a checkpoint on a split of its recipe's data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
import torch

from llmforge.checkpoint import Checkpoint
from llmforge.checkpoint.format import REFERENCE_FILE
from llmforge.data.example_batches import example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.errors import DataError, RecipeError, UsageError
from llmforge.generation import LoadedModel, build_generator, load_checkpoint
from llmforge.interfaces import Batch, Objective, RunContext, Tokenizer
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Recipe
from llmforge.recipe.measured import selected_metrics
from llmforge.run.objective_loss import take_over_loss
from llmforge.run.setup.build import AnyData, fingerprints, open_data, prepare_splits
from llmforge.run.setup.example_packing import packs_examples
from llmforge.run.setup.reference import Splits, fingerprint_of, read_reference
from llmforge.run.training.answers import ANSWERS, measure_answers, measures, metrics_that_need
from llmforge.run.training.evaluation import evaluate, rows_at_once
from llmforge.run.training.label_metrics import LABELS, measure_labels
from llmforge.rundir import RunRecord, read_record
from llmforge.rundir.layout import run_of
from llmforge.rundir.results import keep_newest

_PREFIXES = {"validation": "val"}


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    *,
    split: str = "validation",
    device: str = "auto",
    dtype: str = "auto",
    weights: Path | None = None,
    notice: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return loss, perplexity and bits per byte of ``checkpoint`` on all of ``split``.

    Of an objective with a loss of its own it is that, and what it measures. The metrics of the
    recipe are measured too, over the rows that the recipe says.

    Args:
        checkpoint: what to measure.
        split: a split of the recipe's data: ``train``, ``validation`` or ``test``.
        device: where to compute.
        dtype: number format of the weights.
        weights: a ``.safetensors`` or ``.pt`` file whose weights replace the checkpoint's.
        notice: told what the user should know, such as a damaged cache entry.

    Raises:
        UsageError: the data has no such split.
        DataError: the data cannot be read or has nothing to measure on.
        CheckpointError: the checkpoint cannot be loaded.
        RecipeError: the package of a metric is missing.
    """
    loaded = load_checkpoint(
        checkpoint,
        device=device,
        dtype=dtype,
        weights=weights,
        notice=notice,
        keep=("metric", "early_stopping"),
    )
    if loaded.int8 is not None:
        notice(str(loaded.int8))
    tokens = open_split(loaded, split, notice)
    name = _PREFIXES.get(split, split)
    values = _measure(loaded, tokens, name=name)
    if isinstance(tokens, ExampleSplit) and measures(ANSWERS, loaded.recipe):
        values |= _answers(loaded, tokens, name=name)
    if isinstance(tokens, ExampleSplit) and measures(LABELS, loaded.recipe):
        values |= _labels(loaded, tokens, name=name)
    return {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "split": split,
        "tokens": tokens.n_tokens,
        "rows": _rows(tokens, loaded.recipe.context),
        "device": loaded.device,
        "dtype": loaded.dtype,
        **({} if weights is None else {"weights": str(weights)}),
        "time": time.time(),
        **values,
    }


def record_evaluation(checkpoint: Checkpoint, result: dict[str, Any]) -> Path | None:
    """Keep ``result`` in the ``evaluation.json`` of the checkpoint's run, and return the file.

    The file holds the newest result per checkpoint and split. None when the checkpoint lies
    outside a run, where there is no place for it.

    Raises:
        RunError: the file is damaged or cannot be written; ``result`` is not in it.
    """
    run = run_of(checkpoint.path)
    if run is None:
        return None
    path = run.evaluation
    keep_newest(path, [result], by=("checkpoint", "split"))
    return path


def open_splits(
    loaded: LoadedModel,
    notice: Callable[[str], None],
    *,
    recipe: Recipe | None = None,
    run: RunContext | None = None,
) -> tuple[AnyData, Splits]:
    """Return the data of a recipe, and its splits as the model of a checkpoint reads them.

    Args:
        loaded: the model, with its tokenizer.
        notice: told what the user should know.
        recipe: whose data is meant; without it, the one the model was trained with.
        run: what components see of ``recipe``.

    Raises:
        DataError: the data cannot be read, or cannot be laid out.
    """
    own = recipe is None
    recipe = recipe or loaded.recipe
    selection, how = recipe.selected("data"), recipe.selected("objective")
    manager = build_manager([load(item.kind, item.name)(item.options) for item in (selection, how)])
    objective: Objective = call_factory(manager, "forge_build_objective", run=loaded.run)
    record = _record(loaded.checkpoint) if own else RunRecord("")
    data = open_data(manager, run or dataclasses.replace(loaded.run, resolved=record.resolved))
    if record.fingerprints.get("data", data.fingerprint) != data.fingerprint:
        notice("the data is not what the run was trained on: it has changed since")
    splits = prepare_splits(
        data,
        loaded.tokenizer,
        objective=objective,
        context=recipe.context,
        cache=loaded.run.cache,
        notice=notice,
        check_stop=lambda: None,
        packed=packs_examples(data, run or loaded.run, objective),
        document_mask=recipe.train.document_mask,
    )
    return data, splits


def measure_loss(loaded: LoadedModel, split: TokenSplit | ExampleSplit) -> tuple[float, int]:
    """Return the loss of a model on all of ``split`` in nats per target, and its tokens."""
    found = _measure(loaded, split, name="val")
    return found["val/loss"], split.n_tokens


def _measure(
    loaded: LoadedModel, split: TokenSplit | ExampleSplit, *, name: str
) -> dict[str, float]:
    model, sequences = loaded.model, 1
    if isinstance(split, ExampleSplit):
        take_over_loss(model, split.objective)
        sequences = split.objective.sequences

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return model.loss({name: tensor.to(loaded.device) for name, tensor in batch.items()})

    context, rows = loaded.recipe.context, _rows_at_once(loaded, sequences)
    with torch.inference_mode():
        values = evaluate(compute, split, name=name, context=context, batch_size=rows)
    assert values is not None
    return values


def _rows_at_once(loaded: LoadedModel, sequences: int = 1) -> int:
    device = torch.device(loaded.device)
    return rows_at_once(loaded.model, context=loaded.recipe.context * sequences, device=device)


def open_split(
    loaded: LoadedModel, split: str, notice: Callable[[str], None]
) -> TokenSplit | ExampleSplit:
    """Return a split of the data that the model of ``loaded`` was trained on.

    Raises:
        UsageError: the data has no such split.
        DataError: the data cannot be read.
    """
    data, splits = open_splits(loaded, notice)
    if split not in data.splits:
        raise UsageError(
            f"the data has no split '{split}'", remedy=f"--split {' or '.join(data.splits)}"
        )
    found = splits[split]
    if isinstance(found, ExampleSplit) and found.objective.needs_reference:
        return _with_reference(loaded.checkpoint, data, splits, loaded.tokenizer)[split]
    return found


def _rows(split: TokenSplit | ExampleSplit, context: int) -> int:
    """Return how many rows of the context a split has."""
    if isinstance(split, TokenSplit):
        return -(-(split.n_tokens - 1) // context)
    return split.sequences


def _with_reference(
    checkpoint: Checkpoint, data: AnyData, splits: Splits, tokenizer: Tokenizer
) -> Splits:
    """Return ``splits`` with the numbers that the objective compared with in training.

    Raises:
        DataError: the checkpoint has none for these rows.
    """
    of = fingerprint_of(splits, fingerprints(data, tokenizer, splits))
    found = read_reference(checkpoint.path / REFERENCE_FILE, of=of)
    if found is None:
        raise DataError(
            f"{checkpoint.path} has no reference for these rows: when the run started, what their "
            "objective compares with was computed for others",
            remedy="give it the data it was trained with",
        )
    return found.put_into(splits)


def _answers(loaded: LoadedModel, split: ExampleSplit, *, name: str) -> dict[str, float]:
    """Return the recipe's metrics of generated answers."""
    recipe = loaded.recipe
    values = measure_answers(
        build_generator(loaded, recipe.selected("generation")),
        metrics_that_need(ANSWERS, recipe, _metric_components(recipe), loaded.run),
        split,
        tokenizer=loaded.tokenizer,
        keys=recipe.metric,
        name=name,
    )
    assert values is not None
    return values


def _labels(loaded: LoadedModel, split: ExampleSplit, *, name: str) -> dict[str, float]:
    """Return the recipe's metrics of predicted labels."""
    context = loaded.recipe.context
    values = measure_labels(
        loaded.model,  # type: ignore[arg-type]
        metrics_that_need(LABELS, loaded.recipe, _metric_components(loaded.recipe), loaded.run),
        example_evaluation_batches(
            split, context=context, batch_size=min(_rows_at_once(loaded), split.rows)
        ),
        device=torch.device(loaded.device),
        name=name,
    )
    assert values is not None
    return values


def _metric_components(recipe: Recipe) -> pluggy.PluginManager:
    """Return a manager of the recipe's metrics.

    Raises:
        RecipeError: a package is missing.
    """
    components = list(selected_metrics(recipe.selections).values())
    problems = [problem for item in components for problem in item.missing_packages()]
    if problems:
        raise RecipeError(problems, source=str(recipe.source))
    return build_manager(components)


def _record(checkpoint: Checkpoint) -> RunRecord:
    """Return the record of the checkpoint's run: which data ``auto`` choices led to."""
    run = run_of(checkpoint.path)
    return RunRecord("") if run is None or not run.record.exists() else read_record(run)
