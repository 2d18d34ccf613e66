"""What a run is, in numbers: told to callbacks and trackers when it starts."""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch

from llmforge.interfaces import LanguageModel, Resolution, weight_count
from llmforge.recipe import Recipe
from llmforge.run.setup.build import PreparedData
from llmforge.run.setup.model_build import BuiltModel


def run_facts(
    recipe: Recipe,
    *,
    model: LanguageModel,
    built: BuiltModel,
    prepared: PreparedData,
    resolution: Resolution,
    last_step: int,
) -> dict[str, Any]:
    """Return sizes of model, data, steps and machine.

    ``flops_per_token`` and ``total_flops`` count forward and backward as the model does;
    ``planned_tokens`` are all that will be trained on, repeated ones counted again.
    """
    batches = prepared.batches
    tokens = batches.tokens(batches.epochs.batch_size.before(last_step))
    flops = model.flops_per_token()
    return {
        **parameter_counts(model),
        **({"trainable_parameters": built.trainable} if built.frozen_names else {}),
        "architecture": architecture(model, recipe),
        "vocab_size": prepared.tokenizer.vocab_size,
        "flops_per_token": flops,
        "total_flops": flops * tokens,
        "total_steps": last_step,
        "steps_per_epoch": round(batches.epochs.steps_per_epoch, 3),
        "tokens_per_step": batches.tokens_per_step,
        "planned_tokens": tokens,
        **data_facts(prepared),
        "hardware": hardware(resolution),
    }


def parameter_counts(model: LanguageModel) -> dict[str, Any]:
    """Return numbers of weights: all, those of each part of the model, those of no embedding.

    A part is the first word of a parameter's name. Shared weights are counted once, where they
    are first named.
    """
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + weight_count(parameter)
    total = sum(parts.values())
    return {
        "parameters": total,
        "parameters_by_part": parts,
        "parameters_without_embeddings": total - _embedding_parameters(model),
    }


def architecture(model: LanguageModel, recipe: Recipe) -> dict[str, Any]:
    """Return the model's name and what it says of its sizes, else the recipe's options."""
    name = recipe.selected("model").name
    sizes = getattr(model, "architecture", None) or recipe.tables["model"].get(name, {})
    return {"name": name, **sizes}


def data_facts(prepared: PreparedData) -> dict[str, Any]:
    """Return the data's description, fingerprint and sizes by split."""
    splits = prepared.splits
    return {
        "data": prepared.data.description,
        "data_fingerprint": prepared.data.fingerprint,
        "files": len(getattr(prepared.data, "files", ())),
        "tokens": {name: split.n_tokens for name, split in splits.items()},
        "bytes": {
            name: split.n_bytes for name, split in splits.items() if split.n_bytes is not None
        },
        "documents": {name: split.documents for name, split in splits.items()},
    }


def hardware(resolution: Resolution) -> dict[str, Any]:
    """Return what the run computes on."""
    facts: dict[str, Any] = {
        "device": resolution.device,
        "name": resolution.hardware,
        "precision": resolution.precision,
        "compiled": resolution.compile,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
    if resolution.device.startswith("cuda"):
        facts["gpu_count"] = torch.cuda.device_count()
        total = torch.cuda.get_device_properties(torch.device(resolution.device)).total_memory
        facts["gpu_memory_gb"] = round(total / 1e9, 1)
    return facts


def _embedding_parameters(model: LanguageModel) -> int:
    """Return the weights of lookup tables; a model that is no ``torch.nn.Module`` has none."""
    if not isinstance(model, torch.nn.Module):
        return 0
    tables = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    return sum(tables.values())
