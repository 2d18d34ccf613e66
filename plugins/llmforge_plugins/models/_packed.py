"""Weights in oneDNN's own layout, for the many products with few rows that generation makes.

oneDNN rearranges an ordinary weight for every product. With hundreds of rows that is nothing, with
few rows it is most of the work: on two AMD Zen 5 cores a bf16 product of one row took 2.3 times as
long, an fp32 product of two to eight rows 1.7 to 2.4 times.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from llmforge_plugins.models._linear import linear, onednn, onednn_is_faster

_FEW = 32
"""Most positions of one row for which fp32 is packed: more are a prompt, which is read once."""

_SEVERAL = 3
"""Times that a weight meets a few positions before it is packed, which costs some passes."""
_SMALL = 1 << 18
"""Elements of a weight below which calling oneDNN takes longer than multiplying."""


class PackedWeights:
    """Rearranged copies of a model's weights, each made when it is first used.

    They cost as much memory as the weights and do not follow later changes of them, so they live
    as long as one generation.
    """

    def __init__(self) -> None:
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}
        self._met: Counter[int] = Counter()  # how often a weight met a few positions at once

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``inputs @ weight.T + bias`` over the last dimension."""
        if torch.is_grad_enabled() or not _may_pack(inputs, weight):
            return linear(inputs, weight, bias)
        held = self._packed.get(id(weight))
        if held is None:
            if inputs.dtype == torch.float32 and not self._pays(inputs, weight):
                return _as_it_is(inputs, weight, bias)
            # the weight itself is kept too, so that its id stays its own
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), inputs.shape[0])
            held = self._packed[id(weight)] = (weight, packed)
        return onednn(inputs, held[1], bias)

    def _pays(self, inputs: Tensor, weight: Tensor) -> bool:
        """Return whether to pack an fp32 weight: not for one position, nor for a few times."""
        if inputs.shape[0] > 1:
            return True
        if not 1 < inputs.numel() // inputs.shape[-1] <= _FEW:
            return False
        self._met[id(weight)] += 1
        return self._met[id(weight)] > _SEVERAL


def _as_it_is(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply by an fp32 weight that is not packed."""
    if inputs.numel() > inputs.shape[-1]:
        return linear(inputs, weight, bias)
    # of one position: oneDNN is ahead with large weights, and is slow to call
    if weight.numel() <= _SMALL:
        return functional.linear(inputs, weight, bias)
    return onednn(inputs, weight, bias)


def _may_pack(inputs: Tensor, weight: Tensor) -> bool:
    if inputs.device.type != "cpu" or inputs.dtype != weight.dtype:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if inputs.dtype == torch.float32:
        return onednn_is_faster() and _knows_packing()
    return inputs.dtype == torch.bfloat16 and _packs_bf16()


@cache
def _knows_packing() -> bool:
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    known = all(hasattr(torch.ops.mkldnn, name) for name in operators)
    return known and torch.backends.mkldnn.is_available()


@cache
def _packs_bf16() -> bool:
    return _knows_packing() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
