"""The transformer with the weights of a published model that it equals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llmforge.errors import RecipeError
from llmforge.interfaces import RunContext
from llmforge_plugins._pretrained import PretrainedError, find_source, read_config
from llmforge_plugins.models._architectures import Described, UnknownArchitecture, describe
from llmforge_plugins.models._renamed_weights import rules
from llmforge_plugins.models._shape import Shape
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models._weight_files import (
    WeightFiles,
    few,
    is_outline,
    resolution,
    weight_files,
)

_PREFIXES = ("model.", "transformer.", "gpt_neox.")
"""What stands before the names of a model with an output matrix, and not of one without."""

_RENAMED = {"embed_out.weight": "lm_head.weight"}
"""Names that have changed between versions of transformers."""

_BY_VOCABULARY = ("embedding.weight", "head.weight")


def build(options: Any, run: RunContext, *, vocab_size: int, name: str) -> TransformerModel:
    """Return the model that ``options.init_from`` names, with room for ``vocab_size`` tokens.

    On the meta device, in fake mode and where a checkpoint is about to fill it, no weights are
    read. What the run has recorded of the model is enough for the last.

    Raises:
        PretrainedError: the model is not there, or its weights are not those of its config.json.
        RecipeError: the options contradict it.
    """
    recorded = run.resolved.get("model", {})
    if run.filled and recorded.get("architecture"):
        known = recorded["architecture"]
        names = [field.name for field in dataclasses.fields(Shape)]
        shape = Shape(**{name: known[name] for name in names if name in known})
        model = TransformerModel(shape, vocab_size=known["vocab_size"])
        model.resolution = {key: item for key, item in recorded.items() if key != "architecture"}
        return model
    source = find_source(options.init_from, revision=options.revision, run=run)
    try:
        found = describe(read_config(source))
    except UnknownArchitecture as error:
        raise PretrainedError(
            f"the model transformer cannot start from {source}: {error}",
            remedy="use the model hf-causal",
        ) from error
    if problems := found.problems(options.given(), context=options.context, key=f"model.{name}"):
        raise RecipeError(problems)
    model = TransformerModel(options.shape(found), vocab_size=max(vocab_size, found.vocab_size))
    if not (run.filled or is_outline()):
        files = weight_files(source, remedy="leave init_from out to start from random weights")
        _fill(model, WeightFiles(files), found)
        if vocab_size > found.vocab_size:
            run.notice(
                f"the tokenizer has {vocab_size:,} entries, the embedding of "
                f"'{options.init_from}' fewer: it grew, and new rows are the mean of the old ones"
            )
    model.resolution = resolution(source)
    return model


def _fill(model: TransformerModel, files: WeightFiles, found: Described) -> None:
    """Copy the weights in ``files`` into ``model``.

    Raises:
        PretrainedError: some are missing or of another shape.
    """
    own = dict(model.named_parameters())
    missing, reshaped = [], []
    for rule in rules(model.shape, found.kind, vocab_size=found.vocab_size):
        target = own[rule.own].detach()
        names = [_name_in(files, name) for name in rule.theirs]
        lacking = [their for their, name in zip(rule.theirs, names, strict=True) if name is None]
        if lacking and rule.is_bias:
            target.zero_()
            continue
        if lacking:
            missing += lacking
            continue
        tensor = rule.join([files.read(name) for name in names if name is not None])
        if not _copied(tensor, target, rule.own):
            reshaped.append(f"{rule.theirs[0]} is {list(tensor.shape)}")
    wrong = [
        f"{what}: {few(names)}"
        for what, names in (("missing", missing), ("of another shape", reshaped))
        if names
    ]
    if wrong:
        raise PretrainedError(
            f"the weights of init_from are not those of the model in its config.json; "
            f"{'; '.join(wrong)}",
            remedy="download both again",
        )


def _copied(tensor: Tensor, target: Tensor, name: str) -> bool:
    """Copy a tensor if it fits; say whether it does."""
    if name == "positions.weight":
        tensor = tensor[: len(target)]  # the recipe's context may be shorter
    if name in _BY_VOCABULARY and tensor.shape[1:] == target.shape[1:]:
        # the mean is what adds least to a softmax over the old entries (Hewitt 2021)
        target[len(tensor) :] = tensor.float().mean(0)
        target = target[: len(tensor)]
    if tensor.shape != target.shape:
        return False
    with torch.no_grad():
        target.copy_(tensor)
    return True


def _name_in(files: WeightFiles, name: str) -> str | None:
    """Return under which name ``files`` have a weight, None when they have not."""
    return next((each for each in _spellings(name) if each in files), None)


def _spellings(name: str) -> Iterator[str]:
    yield name
    if name in _RENAMED:
        yield _RENAMED[name]
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            yield name.removeprefix(prefix)
