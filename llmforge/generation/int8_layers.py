"""Linear layers with int8 weights: a quarter of the memory, and less to read for each token.

Each output has a scale of its own (symmetric, as in Jacob et al. 2018, arXiv:1712.05877); only
weights are quantised. Embeddings, norms and biases stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge.errors import UsageError
from llmforge.generation.int8_products import int8_product, packed_rows, shortest_time
from llmforge.interfaces import LinearLayer, linear_layers

_LARGEST = 127
_AT_ONCE = 1 << 22  # weights that are quantised at once, so that no second fp32 copy is whole
_TIMED = 1 << 26  # weights of the layers that are timed: enough to be in no cache
_NOTICEABLE = 1.1


@dataclass(frozen=True, kw_only=True)
class Int8Summary:
    """What quantising a model changed.

    Attributes:
        layers: linear layers that are int8 now.
        bytes_before: of their weights, before.
        bytes_after: of their weights and scales.
        model_bytes: of all weights now.
        speed: how many times as fast as before products of one row are.
    """

    layers: int
    bytes_before: int
    bytes_after: int
    model_bytes: int
    speed: float

    def __str__(self) -> str:
        return (
            f"int8: {self.layers} linear layers, {_megabytes(self.bytes_before)} → "
            f"{_megabytes(self.bytes_after)}; all weights {_megabytes(self.model_bytes)}; "
            f"products of one row {self.speed:.1f} × as fast as in fp32"
        )

    @property
    def slowdown(self) -> str | None:
        """In words that int8 only saves memory here; None where it is about as fast."""
        if self.speed * _NOTICEABLE >= 1:
            return None
        return (
            f"--dtype int8 saves memory and costs time on this CPU: products of one row take "
            f"{1 / self.speed:.1f} times as long as in fp32"
        )


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, for inference.

    It is called as the layer it replaces; further arguments, such as weights in another layout,
    have no meaning here.

    Args:
        layer: what it replaces.

    Attributes:
        weight: int8 [outputs, inputs].
        scale: what each output is multiplied by, fp32 [outputs].
        bias: as it was.
        most_packed: how many rows are multiplied by PyTorch's int8 kernel at most.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: LinearLayer) -> None:
        super().__init__()
        weight, scale = quantised(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.out_features, self.in_features = weight.shape
        self.most_packed = packed_rows(self.out_features, self.in_features)

    def forward(self, inputs: Tensor, *_: Any) -> Tensor:
        """Return ``inputs @ weight.T * scale + bias`` over the last dimension."""
        rows = inputs.reshape(-1, self.in_features)
        outputs = int8_product(rows, self.weight, self.scale, most_packed=self.most_packed)
        if self.bias is not None:
            outputs += self.bias
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return its sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``weight`` [outputs, inputs] as int8, and the scale of each output, fp32.

    No weight is off by more than half the scale of its output. A row of zeros has the scale 1; one
    that is not finite has a scale that is not either, so that its outputs show it.
    """
    found = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], device=weight.device)
    size = max(1, _AT_ONCE // weight.shape[1])
    for start in range(0, weight.shape[0], size):
        part = slice(start, start + size)
        rows = weight[part].float()
        step = rows.abs().amax(dim=1) / _LARGEST
        step = torch.where(step == 0, 1.0, step)
        found[part] = (rows / step[:, None]).round_().nan_to_num_()
        scale[part] = step
    return found, scale


def quantise_layers(model: Any) -> Int8Summary:
    """Replace the linear layers of ``model`` by :class:`Int8Linear`, one after the other.

    Which they are the model says by ``linear_layers``, see
    :class:`llmforge.interfaces.LinearLayers`; else they are all of ``torch.nn.Linear``.

    Raises:
        UsageError: it has none.
    """
    offered = getattr(model, "linear_layers", None)
    layers: dict[str, LinearLayer] = dict(linear_layers(model) if offered is None else offered())
    if not layers:
        raise UsageError(
            "the model has no linear layers that could be int8", remedy="--dtype fp32 or bf16"
        )
    tried = _first(layers)
    rows = [torch.ones(1, layers[name].weight.shape[1]) for name in tried]
    calls = [partial(functional.linear, weight=layers[name].weight) for name in tried]
    plain = _one_after_the_other(calls, rows)
    calls.clear()  # each weight is freed once it is replaced
    before = after = 0
    made: dict[tuple[int, int], Int8Linear] = {}  # by identity: all are held until their turn
    for name in list(layers):
        layer = layers.pop(name)
        key = id(layer.weight), id(layer.bias)
        if key not in made:
            made[key] = Int8Linear(layer)
            before += layer.weight.nbytes
            after += made[key].weight.nbytes + made[key].scale.nbytes
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made[key])
    model.eval()
    _release_memory()
    quick = _one_after_the_other([model.get_submodule(name) for name in tried], rows)
    return Int8Summary(
        layers=len(made),
        bytes_before=before,
        bytes_after=after,
        model_bytes=_bytes(model),
        speed=plain / quick,
    )


def _first(layers: Mapping[str, LinearLayer]) -> list[str]:
    """Return the names of the first layers, of a large model as many as tell how fast it is."""
    found: list[str] = []
    left = _TIMED
    for name, layer in layers.items():
        if left <= 0:
            break
        found.append(name)
        left -= layer.weight.numel()
    return found


def _one_after_the_other(
    calls: Sequence[Callable[[Tensor], Tensor]], rows: Sequence[Tensor]
) -> float:
    """Return the seconds of a product each, as for a token: no weight is in cache from before."""

    def all_of_them() -> None:
        for call, row in zip(calls, rows, strict=True):
            call(row)

    with torch.inference_mode():
        return shortest_time(all_of_them)


def _release_memory() -> None:
    """Give the system back what the replaced weights took; glibc would keep it for later."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _bytes(model: Any) -> int:
    """Return the bytes of all parameters and buffers, shared ones counted once."""
    return sum(item.nbytes for item in (*model.parameters(), *model.buffers()))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
