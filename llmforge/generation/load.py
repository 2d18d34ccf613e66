"""Loading a checkpoint for use: recipe, tokenizer, model and weights, without a training engine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoint import Checkpoint, load_tensors
from llmforge.checkpoint.format import RECIPE, TOKENIZER, read_metadata
from llmforge.checkpoint.frozen_weights import frozen_parameters, require_same_weights
from llmforge.component import Component
from llmforge.data.labels import load_labels
from llmforge.data.prompts import PromptLayout, load_prompts
from llmforge.errors import RecipeError, UsageError
from llmforge.generation.address import locate
from llmforge.generation.weights import fill, load_legacy_weights, load_weights
from llmforge.interfaces import Adapter, LanguageModel, RunContext, Tokenizer
from llmforge.matmul_speed import measure_matmul_speed
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Override, Recipe, load_recipe
from llmforge.rundir import RunDirectory
from llmforge.rundir.context import run_context

if TYPE_CHECKING:
    import pluggy
    import torch

    from llmforge.generation.int8_layers import Int8Summary

__all__ = ["LoadedModel", "load_checkpoint", "load_legacy_weights", "open_checkpoint"]

INT8 = "int8"
DTYPES = ("auto", "fp32", "bf16", INT8)

UNUSED = ("tracker", "callback", "storage", "sweep", "metric", "early_stopping", "deploy")
"""Tables a model works without: their plugins need not be installed where it is used."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode with everything it needs to be used.

    Attributes:
        model: the model, on ``device``.
        tokenizer: the tokenizer it was trained with.
        chat: lays out prompts as in training; None when it was trained on running text.
        recipe: the recipe it was trained with, trackers, storage and callbacks left out.
        checkpoint: where the weights came from.
        run: the run as components see it.
        device: ``cpu``, ``cuda:0`` …
        dtype: ``fp32``, ``bf16`` or ``int8``.
        int8: what quantising changed, where ``dtype`` is ``int8``.
        weights: a file whose weights replaced the checkpoint's.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    chat: PromptLayout | None
    recipe: Recipe
    checkpoint: Checkpoint
    run: RunContext
    device: str
    dtype: str
    int8: Int8Summary | None = None
    weights: Path | None = None

    def __str__(self) -> str:
        return f"{self.run.id} at step {self.checkpoint.step}, {self.device}, {self.dtype}"


def open_checkpoint(
    address: str,
    *,
    root: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    weights: Path | None = None,
    notice: Callable[[str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Find and load a checkpoint; see :func:`llmforge.generation.locate` for addresses.

    Args:
        address: run or checkpoint.
        root: directory of all runs.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``fp32``, ``bf16``, ``int8`` (weights of linear layers, on a CPU; the rest is fp32),
            or ``auto``: bf16 where a GPU computes it natively.
        weights: a ``.safetensors`` or ``.pt`` file whose weights replace the checkpoint's.
        notice: told what components want the user to know.
        say: told when the checkpoint has to be fetched.

    Raises:
        RunError, CheckpointError, RecipeError, UsageError: with what is wrong and a remedy.
    """
    require_device(device, dtype)
    checkpoint = locate(address, root=Path(root), say=say)
    return load_checkpoint(checkpoint, device=device, dtype=dtype, weights=weights, notice=notice)


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: Path | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Collection[str] = (),
) -> LoadedModel:
    """Load a checkpoint; further arguments and errors as :func:`open_checkpoint`.

    Args:
        checkpoint: what to load.
        device: where to compute.
        dtype: number format of the weights.
        weights: a file whose weights replace the checkpoint's.
        notice: told what components want the user to know.
        keep: tables of the recipe that are needed, of those a model works without.
    """
    left_out = [Override((name,), None) for name in UNUSED if name not in keep]
    recipe = load_recipe(checkpoint.path / RECIPE, overrides=left_out)
    run = _context(checkpoint, recipe, notice)
    manager = build_manager(_components(recipe))
    import torch

    place = resolve_device(device)
    number_format = resolve_dtype(dtype, place)
    if place == "cpu" and number_format == "bf16" and (slow := measure_matmul_speed().slowdown()):
        run.notice(f"--dtype bf16 costs time on this CPU, fp32 does not: {slow}")

    run = dataclasses.replace(run, labels=load_labels(checkpoint.path / TOKENIZER))
    with torch.device(place):
        tokenizer: Tokenizer = call_factory(
            manager, "forge_load_tokenizer", run=run, directory=checkpoint.path / TOKENIZER
        )
    model, frozen = _built(checkpoint, manager, run, tokenizer, place=place)
    source, tensors = _weights(checkpoint, weights)
    fill(model, tensors, source=source, built_in=frozen)
    model = model.to(device=place, dtype=torch_dtype(number_format)).eval()
    int8 = _quantised(manager, run, model) if number_format == INT8 else None
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        chat=load_prompts(
            checkpoint.path / TOKENIZER,
            tokenizer,
            objective=call_factory(manager, "forge_build_objective", run=run),
            context=recipe.context,
        ),
        recipe=recipe,
        checkpoint=checkpoint,
        run=run,
        device=place,
        dtype=number_format,
        int8=int8,
        weights=weights,
    )


def _quantised(manager: pluggy.PluginManager, run: RunContext, model: Any) -> Int8Summary:
    """Make the linear layers int8, after the weights of an adapter were added to theirs."""
    from llmforge.generation.int8_layers import quantise_layers
    from llmforge.run.setup.model_build import adapter_name

    if adapter_name(run) is not None:
        adapter: Adapter = call_factory(manager, "forge_build_adapter", run=run)
        adapter.merge(model)
    summary = quantise_layers(model)
    if summary.slowdown is not None:
        run.notice(summary.slowdown)
    return summary


def _built(
    checkpoint: Checkpoint,
    manager: pluggy.PluginManager,
    run: RunContext,
    tokenizer: Tokenizer,
    *,
    place: str,
) -> tuple[Any, Collection[str]]:
    """Return the model, and the names of its weights that are right as they were built.

    Raises:
        CheckpointError: it was built with other frozen weights than the checkpoint belongs to.
    """
    import torch

    from llmforge.run.setup.model_build import adapted, frozen_weights, seeded_model

    expected = checkpoint.manifest.frozen
    if expected is None:
        with torch.device(place):
            model = call_factory(manager, "forge_build_model", run=run, tokenizer=tokenizer)
            return adapted(manager, run, model), ()
    # as in training: on the host, whose random numbers differ from those of another device
    with torch.random.fork_rng(devices=[]):
        model = seeded_model(manager, run, tokenizer)
    owner = f"checkpoint {checkpoint.path}"
    require_same_weights(expected, frozen_weights(model, run), owner=owner)
    return model, frozen_parameters(model).keys()


def require_device(device: str, dtype: str) -> None:
    """Refuse a device or number format that cannot be used here, before anything is fetched.

    Raises:
        UsageError: with what there is.
    """
    resolve_dtype(dtype, resolve_device(device))


def resolve_device(device: str) -> str:
    """Return the device to use.

    Raises:
        UsageError: it is not a device, or this machine does not have it.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, got '{device}'")
    import torch

    count = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        return "cuda:0" if count else "mps" if has_mps else "cpu"
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        found = f"it has {count} CUDA device{'s' if count != 1 else ''}"
        raise UsageError(f"this machine has no {device}: {found}", remedy="use --device auto")
    if device == "mps" and not has_mps:
        raise UsageError("this machine has no mps device", remedy="use --device auto")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """Return the number format of the weights: ``fp32``, ``bf16`` or ``int8``.

    Raises:
        UsageError: it is none of them, nor ``auto``, or the device has no products for it.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    if dtype == INT8 and device != "cpu":
        raise UsageError(
            f"--dtype int8 is for the CPU, and the device is {device}",
            remedy="add --device cpu, or take --dtype bf16",
        )
    if dtype != "auto":
        return dtype
    import torch

    native = device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if native else "fp32"


def torch_dtype(dtype: str) -> torch.dtype:
    """Return torch's name for the numbers that are computed with."""
    import torch

    return torch.bfloat16 if dtype == "bf16" else torch.float32


def _components(recipe: Recipe) -> list[Component]:
    kinds = ("model", "adapter", "tokenizer", "objective")
    selections = [item for kind in kinds for item in recipe.selections.get(kind, ())]
    components = [load(item.kind, item.name)(item.options) for item in selections]
    problems = [problem for item in components for problem in item.missing_packages()]
    if problems:
        raise RecipeError(problems, source=str(recipe.source))
    return components


def _context(
    checkpoint: Checkpoint, recipe: Recipe, notice: Callable[[str], None] | None
) -> RunContext:
    inside = checkpoint.path.parent.name == "checkpoints"
    directory = RunDirectory(checkpoint.path.parents[1] if inside else checkpoint.path)
    told = {} if notice is None else {"notice": notice}
    model = read_metadata(checkpoint.path).get("model", {})
    # what is frozen is not in a checkpoint
    return run_context(
        directory,
        recipe,
        resolved={"model": model} if model else {},
        filled=checkpoint.manifest.frozen is None,
        **told,
    )


def _weights(
    checkpoint: Checkpoint, weights: Path | None
) -> tuple[Path, Mapping[str, torch.Tensor]]:
    if weights is not None:
        return weights, load_weights(weights)
    return checkpoint.path, load_tensors(checkpoint.path, "model")
