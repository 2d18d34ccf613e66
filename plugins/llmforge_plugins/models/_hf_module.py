"""A model of Hugging Face as a module of its own, shared by all components over such models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llmforge.interfaces import LinearLayer, Tokenizer, weight_count

AS_PUBLISHED = "weights_as_published"
"""Attribute of a model of ``transformers`` whose weights are the published ones."""


class HuggingFaceModule(nn.Module):
    """Has the very children, parameters and buffers of the model it wraps, under their own names.

    Args:
        inner: the model of ``transformers``.
        context: longest sequence in tokens.
        resolution: where it came from.

    Attributes:
        inner: the model of ``transformers``.
        resolution: what a run records of it.
    """

    inner: Any

    def __init__(self, inner: Any, *, context: int, resolution: dict[str, Any]) -> None:
        super().__init__()
        # shared, not copied: what is replaced in the one is replaced in the other
        for part in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[part] = inner.__dict__[part]
        self.__dict__["inner"] = inner  # no child, or every name would begin with it
        self.context = context
        self.resolution = resolution

    @property
    def config(self) -> Any:
        """The configuration of ``transformers``."""
        return self.inner.config

    @property
    def architecture(self) -> dict[str, Any]:
        """The configuration as JSON, from which the model can be built again."""
        found: dict[str, Any] = json.loads(self.config.to_json_string(use_diff=False))
        return {key: value for key, value in found.items() if value is not None}

    @property
    def is_as_published(self) -> bool:
        """Whether its weights, adapters left out, were those of :attr:`resolution` to begin with.

        They were not when they were drawn, or when the vocabulary grew.
        """
        return bool(getattr(self.inner, AS_PUBLISHED, False))

    def linear_layers(self) -> dict[str, LinearLayer]:
        """Return the layers that can be replaced, GPT-2's own kind among them.

        Sub-classes of ``nn.Linear`` are left out: they compute something else, or are quantised.
        """
        found = {}
        for name, module in self.named_modules(remove_duplicate=False):
            if type(module) is nn.Linear:
                found[name] = LinearLayer(weight=module.weight, bias=module.bias)
            elif type(module) is Conv1D:
                found[name] = LinearLayer(weight=module.weight.t(), bias=module.bias)
        return found

    def save_hugging_face(
        self, directory: Path, *, tokenizer: Tokenizer, max_shard_size: int
    ) -> None:
        """Write the model as ``transformers`` itself saves it."""
        end = tokenizer.eos_id
        for config in (self.config, getattr(self.inner, "generation_config", None)):
            known = getattr(config, "eos_token_id", None)
            known = known if isinstance(known, list) else [known]
            if config is not None and end is not None and end not in known:
                config.eos_token_id = end
        self.inner.save_pretrained(directory, max_shard_size=max_shard_size)

    def train(self, mode: bool = True) -> HuggingFaceModule:
        """Switch between training and evaluation behaviour."""
        self.inner.training = mode
        return super().train(mode)

    def matrix_flops(self) -> float:
        """Return the floating-point operations of all matrices for one token, both passes.

        Two per weight forward and four backward, two less where it is frozen. Embeddings are only
        looked up, except for one that is the output matrix too.
        """
        looked_up = {
            id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)
        }
        head = self.inner.get_output_embeddings()
        output = None if head is None else head.weight
        return sum(
            weight_count(parameter) * (6.0 if parameter.requires_grad else 4.0)
            for parameter in self.parameters()
            if parameter.dim() > 1 and (id(parameter) not in looked_up or parameter is output)
        )


def within(lengths: Tensor, width: int) -> Tensor:
    """Return which of ``width`` positions each row has, int64 [rows, width]: 1 or 0."""
    places = torch.arange(width, device=lengths.device)
    return (places < lengths[:, None]).long()
