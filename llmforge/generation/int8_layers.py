"""Linear layers with int8 weights: a quarter of the memory, and less to read for each token.

Each output has a scale of its own (symmetric, as in Jacob et al. 2018, arXiv:1712.05877); only
weights are quantised. Embeddings, norms and biases stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmforge.errors import UsageError
from llmforge.generation.int8_products import Int8Speed, int8_product, measure_int8_speed
from llmforge.interfaces import LinearLayer, linear_layers

_LARGEST = 127
_AT_ONCE = 1 << 22  # weights that are quantised at once, so that no second fp32 copy is whole
_NOTICEABLE = 1.1


@dataclass(frozen=True, kw_only=True)
class Int8Summary:
    """What quantising a model changed.

    Attributes:
        layers: linear layers that are int8 now.
        bytes_before: of their weights, before.
        bytes_after: of their weights and scales.
        model_bytes: of all weights now.
        speed: how many times as fast as in fp32 products of one row are, over all layers.
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
        speed: how its products are computed.
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
        self.speed: Int8Speed = measure_int8_speed(self.out_features, self.in_features)

    def forward(self, inputs: Tensor, *_: Any) -> Tensor:
        """Return ``inputs @ weight.T * scale + bias`` over the last dimension."""
        rows = inputs.reshape(-1, self.in_features)
        most = self.speed.packed_rows
        outputs = int8_product(rows, self.weight, self.scale, packed_rows=most)
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
    speeds = [layer.speed for layer in made.values()]
    return Int8Summary(
        layers=len(made),
        bytes_before=before,
        bytes_after=after,
        model_bytes=_bytes(model),
        speed=sum(item.one_row_fp32 for item in speeds) / sum(item.one_row for item in speeds),
    )


def _bytes(model: Any) -> int:
    """Return the bytes of all parameters and buffers, shared ones counted once."""
    return sum(item.nbytes for item in (*model.parameters(), *model.buffers()))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
