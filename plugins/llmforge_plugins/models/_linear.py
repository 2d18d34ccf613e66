"""Linear maps that take the fastest fp32 matrix kernel of the CPU at hand.

PyTorch multiplies fp32 matrices with MKL, whose AVX-512 kernels are for Intel's processors only; on
others it reached 165 GFLOP/s where oneDNN, which PyTorch ships too, reached 390 (two AMD Zen 5
cores, results equally exact). With AVX2 only the two are closer, and which is ahead differs by
product and layout. So training measures them (``_kernels``); without a measurement oneDNN is taken
where the processor is not Intel's. Everything else (bf16, which is oneDNN's anyway, other devices,
double) is plain ``torch``.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge_plugins.models._kernels import PLAIN, chosen_kernel, linear_name

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "forward", "input gradient", "weight gradient"
ONEDNN, TRANSPOSED = "onednn", "onednn transposed"

_FEW = 64
"""Rows below which a measurement, which is of the many rows of training, says nothing."""


class Products(Protocol):
    """Computes linear maps in a way of its own, such as with rearranged weights."""

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``inputs @ weight.T + bias`` over the last dimension."""
        ...


@cache
def onednn_is_faster() -> bool:
    """Return whether this CPU's fp32 products are better left to oneDNN than to MKL."""
    if not onednn_is_there() or not torch.backends.mkl.is_available():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "GenuineIntel" not in vendor


@cache
def onednn_is_there() -> bool:
    """Return whether fp32 products can be left to oneDNN."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


def output_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return ``hidden @ weight.T`` for matrices of one dtype, without autograd."""
    if _way(FORWARD, hidden, weight) == PLAIN:
        return hidden @ weight.t()
    return onednn(hidden, weight, None)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Return ``grad @ weight`` over the last dimension of ``grad``, without autograd."""
    if _way(INPUT_GRADIENT, grad, weight) == PLAIN:
        return grad @ weight
    return onednn(grad, weight.t(), None)  # a transposed right factor costs oneDNN nothing


def weight_gradient(grad: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return ``grad.T @ inputs``, possibly as a transposed view, without autograd.

    It is the gradient of ``weight``, of whose shape it is.
    """
    way = _way(WEIGHT_GRADIENT, grad, weight)
    if way == PLAIN:
        return grad.t() @ inputs
    # oneDNN copies its left factor into row order; the default is that this is the smaller one
    if way == TRANSPOSED:
        return onednn(inputs.t(), grad.t(), None).t()
    return onednn(grad.t(), inputs.t(), None)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``inputs @ weight.T + bias`` over the last dimension, with autograd."""
    if _is_choice(inputs) and not torch.is_autocast_enabled("cpu"):
        ways = {_way(each, inputs, weight) for each in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)}
        if ways != {PLAIN}:
            outputs: Tensor = _ChosenLinear.apply(inputs, weight, bias)
            return outputs
    return functional.linear(inputs, weight, bias)


def has_matrix(layer: nn.Module) -> bool:
    """Return whether the ``weight`` of ``layer`` is its matrix, and not one that was quantised."""
    weight = layer.weight
    return isinstance(weight, Tensor) and weight.is_floating_point()


class Linear(nn.Linear):
    """``nn.Linear`` over :func:`linear`."""

    def forward(self, inputs: Tensor, packed: Products | None = None) -> Tensor:
        """Return ``inputs @ weight.T + bias`` over the last dimension."""
        if packed is not None:
            return packed.linear(inputs, self.weight, self.bias)
        return linear(inputs, self.weight, self.bias)


class _ChosenLinear(torch.autograd.Function):
    """A linear map whose three matrix products are each computed in the way that was chosen."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product and keep what the gradients need."""
        ctx.save_for_backward(inputs, weight)
        if _way(FORWARD, inputs, weight) == PLAIN:
            return functional.linear(inputs, weight, bias)
        return onednn(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of inputs, weight and bias."""
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        of_weight = None
        if wants_weight:
            of_weight = weight_gradient(rows, inputs.reshape(rows.shape[0], -1), weight)
        return (
            input_gradient(grad, weight) if wants_inputs else None,
            of_weight,
            rows.sum(0) if wants_bias else None,
        )


def onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``left @ right.T + bias`` by oneDNN, without autograd."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(left, right, bias, "none", [], "")
    return product


def _way(operation: str, rows: Tensor, weight: Tensor) -> str:
    """Return how an operation of a linear map over ``rows`` [..., features] is computed."""
    if not _is_choice(rows):
        return PLAIN
    outputs, inputs = weight.shape
    # what traces sizes must not have them compared
    if type(rows) is Tensor and rows.numel() >= _FEW * rows.shape[-1]:
        chosen = chosen_kernel(linear_name(operation, outputs, inputs))
        if chosen is not None:
            return chosen
    if not onednn_is_faster():
        return PLAIN
    return TRANSPOSED if operation == WEIGHT_GRADIENT and outputs > inputs else ONEDNN


def _is_choice(tensor: Tensor) -> bool:
    """Return whether there is more than one way to multiply ``tensor``."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()  # the compiler takes this operator for inference only
        and onednn_is_there()
    )
