"""Counting the bytes of tensors while they live, without there being any memory behind them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WEIGHTS, COPIES, GRADIENTS, OPTIMIZER, ACTIVATIONS, LOGITS = PARTS = (
    "weights",
    "copies",
    "gradients",
    "optimizer",
    "activations",
    "logits",
)
"""What memory is for; ``copies`` are weights in the smaller precision of autocast, ``logits`` all
that is as wide as the vocabulary: logits, their gradients and those of the output matrix."""


class MemoryLedger(TorchDispatchMode):
    """Knows how many bytes are alive of each part, and how it was at the fullest moment.

    Every operation's results are put down by the storage they are in, once, however many tensors
    look at it, and struck out when the storage is freed. So what counts is what autograd, modules
    and optimizers really hold on to; nothing is derived from the architecture. Memory that a kernel
    takes for itself and gives back is not seen.

    Args:
        vocabulary: tokens; tensors that wide belong to the logits.
    """

    def __init__(self, *, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._held: dict[int, tuple[str, int]] = {}
        self._live = dict.fromkeys(PARTS, 0)
        self._peak: dict[str, int] = dict(self._live)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and put down what it made."""
        del types
        results = func(*args, **(kwargs or {}))
        copied = func is torch.ops.aten._to_copy.default and self._part_of(args[0]) == WEIGHTS
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                wide = self._vocabulary in result.shape
                self._enter(result, COPIES if copied else LOGITS if wide else ACTIVATIONS)
        return results

    @property
    def live(self) -> Mapping[str, int]:
        """Bytes alive now, by part."""
        return dict(self._live)

    def assign(self, tensors: Iterable[Tensor], part: str) -> None:
        """Put tensors down as ``part``, known ones too."""
        for tensor in tensors:
            self._enter(tensor, part)
            key = tensor.untyped_storage()._cdata
            before, size = self._held[key]
            self._held[key] = part, size
            self._live[before] -= size
            self._live[part] += size

    def peak_of(self, work: Callable[[], None]) -> Mapping[str, int]:
        """Do ``work`` and return the bytes of each part at its fullest moment."""
        self._peak = dict(self._live)
        with self:
            work()
        return dict(self._peak)

    def _part_of(self, tensor: Tensor) -> str | None:
        held = self._held.get(tensor.untyped_storage()._cdata)
        return held[0] if held else None

    def _enter(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        self._held[key] = part, size
        self._live[part] += size
        weakref.finalize(storage, self._strike, key)
        if sum(self._live.values()) > sum(self._peak.values()):
            self._peak = dict(self._live)

    def _strike(self, key: int) -> None:
        part, size = self._held.pop(key)
        self._live[part] -= size
