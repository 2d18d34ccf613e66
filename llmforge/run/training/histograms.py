"""Histograms of weights and gradients, computed where they lie; nothing is changed by it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

BINS = 64
"""Bins of every histogram, of equal width between the smallest and the largest value."""

_CHUNK = 1 << 22  # float32 counts are exact up to 2^24
_NARROWEST = 1e-6  # of the values' size: edges closer than this would coincide as float32


def histograms(tensors: Mapping[str, torch.Tensor], *, group: str) -> dict[str, dict[str, object]]:
    """Return ``{"edges": [...], "counts": [...]}`` of each tensor as ``group/name``.

    ``edges`` are ``BINS + 1`` rising numbers, ``counts`` whole ones. Values that are not finite
    are left out; a tensor without finite values has no histogram. Reading waits for the device.
    """
    found = {}
    for name, tensor in tensors.items():
        values = tensor.detach().flatten()
        limits = _limits(values)
        if limits is not None:
            found[f"{group}/{name}"] = _histogram(values, *limits)
    return found


def _limits(values: torch.Tensor) -> tuple[float, float] | None:
    """Return the smallest and the largest finite value, None when there is none."""
    if values.numel() == 0:
        return None
    low, high = (float(limit) for limit in values.aminmax())
    if low == low and abs(low) != float("inf") and abs(high) != float("inf"):
        return low, high
    finite = values[values.isfinite()]
    return _limits(finite) if finite.numel() else None


def _histogram(values: torch.Tensor, low: float, high: float) -> dict[str, object]:
    narrowest = _NARROWEST * max(abs(low), abs(high))
    if high - low <= narrowest:
        low, high = low - (narrowest or 0.5), high + (narrowest or 0.5)
    counts = torch.zeros(BINS, dtype=torch.int64, device=values.device)
    for chunk in values.split(_CHUNK):
        counts += torch.histc(chunk.float(), BINS, low, high).long()
    width = (high - low) / BINS
    edges = [float(f"{low + index * width:.9g}") for index in range(BINS + 1)]
    return {"edges": edges, "counts": counts.tolist()}
