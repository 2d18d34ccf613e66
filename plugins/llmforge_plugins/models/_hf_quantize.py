"""Frozen linear maps in 8 or 4 bits, by the package ``bitsandbytes``.

LLM.int8 (Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
2022) and NF4 with quantised scales (Dettmers et al., "QLoRA: Efficient Finetuning of Quantized
LLMs", 2023).
"""

from __future__ import annotations

import logging
from typing import Any, cast

# with AVX-512 it asks at import for kernels of a package that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import bitsandbytes  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from llmforge.interfaces import model_blocks  # noqa: E402

_OUTLIER = 6.0  # inputs of this size and more are multiplied in full precision, as in the paper


class _PlainState:
    """Keeps scales out of the state: they come with the weights, and so do not count as missing."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(cast("nn.Module", self), destination, prefix, keep_vars)


class _Linear8bit(_PlainState, bitsandbytes.nn.Linear8bitLt):
    """A linear map whose weights are int8, with one scale for each output."""


class _Linear4bit(_PlainState, bitsandbytes.nn.Linear4bit):
    """A linear map whose weights are NF4, with one scale for each 64 of them."""


def quantize(model: Any, bits: str, *, device: torch.device) -> None:
    """Replace the linear maps of the model's blocks by frozen ones of ``bits``, on ``device``.

    One after the other, so that no more than one is there twice. Embeddings, norms, the output
    matrix and heads stay as they are.

    Args:
        model: a model of ``transformers``, its weights on the host.
        bits: ``8bit`` or ``4bit``.
        device: where the model will be.
    """
    inside = {part for block in model_blocks(model) for part in block.modules()}
    for name, module in list(model.named_modules()):
        if module in inside and isinstance(module, nn.Linear | Conv1D):
            model.set_submodule(name, _quantized(module, bits).to(device))
    # what peft looks at, to choose matrices that fit such maps
    setattr(model, f"is_loaded_in_{bits}", True)


def _quantized(module: Any, bits: str) -> Any:
    # GPT-2's maps have their weights transposed
    weight = module.weight.detach()
    weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
    outputs, inputs = weight.shape
    found: Any
    with torch.device("meta"):
        if bits == "8bit":
            found = _Linear8bit(inputs, outputs, has_fp16_weights=False, threshold=_OUTLIER)
        else:
            found = _Linear4bit(inputs, outputs, quant_type="nf4", compress_statistics=True)
            # an evaluation would rearrange the weights for kernels of AVX-512, which have no
            # gradient, and leave them so for the training after it
            found.support_avx512bf16_for_cpu = False
    kind = bitsandbytes.nn.Int8Params if bits == "8bit" else bitsandbytes.nn.Params4bit
    chosen = {"has_fp16_weights": False} if bits == "8bit" else {"quant_type": "nf4"}
    found.weight = kind(weight, requires_grad=False, **chosen)
    found.weight.unpacked_numel = weight.numel()
    found.bias = module.bias
    if module.bias is not None:
        module.bias.requires_grad_(False)
    return found
