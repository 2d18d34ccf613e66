"""The state at a step boundary, copied: what a checkpoint is written from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmforge.checkpoint.format import METADATA, TRAINER, Part
from llmforge.checkpoint.rank_slices import Held, Holding
from llmforge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmforge.checkpoint.host_tensors import HostBuffer
    from llmforge.interfaces import Slice


@dataclass(frozen=True, kw_only=True)
class SaveRequest:
    """What to save at a step boundary.

    Attributes:
        step: optimizer steps taken.
        model: live weights by name.
        optimizer: live optimizer tensors by name.
        slices: of the tensors of which this rank holds a part only, which part.
        trainer: JSON-serialisable state of everything else.
        metadata: JSON-serialisable facts for people. Both are encoded on the calling thread, and
            are of use on the leader only.
        is_best: the evaluation at this step was the best so far.
        required: wait for room rather than skip; the best always does.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    trainer: Mapping[str, Any]
    metadata: Mapping[str, Any]
    slices: Mapping[str, Slice] = field(default_factory=dict)
    is_best: bool = False
    required: bool = False


class Snapshot:
    """The memory one checkpoint waits in, with what else belongs to it.

    Args:
        leader: whole tensors are kept, and texts; other ranks keep their slices alone.
    """

    def __init__(self, *, leader: bool) -> None:
        from llmforge.checkpoint.host_tensors import HostBuffer

        self.model: HostBuffer = HostBuffer()
        self.optimizer: HostBuffer = HostBuffer()
        self.step = 0
        self.is_best = False
        self.taken = 0.0
        self.texts: dict[str, bytes] = {}
        self.slices: Mapping[str, Slice] = {}
        self._leader = leader

    def prepare(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        slices: Mapping[str, Slice],
    ) -> None:
        """Allocate and touch the memory that :meth:`take` needs."""
        self.model.prepare(self._own(model, slices))
        self.optimizer.prepare(self._own(optimizer, slices))

    def take(self, request: SaveRequest) -> None:
        """Copy the state; when this returns it may change again.

        Raises:
            CheckpointError: something cannot be encoded.
        """
        self.step = request.step
        self.is_best = request.is_best
        self.taken = time.monotonic()
        if self._leader:
            self.texts = {
                TRAINER: _encode("trainer state", request.trainer),
                METADATA: _encode("metadata", request.metadata),
            }
        self.slices = dict(request.slices)
        self.model.copy_from(self._own(request.model, request.slices))
        self.optimizer.copy_from(self._own(request.optimizer, request.slices))

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, but for what is the same in every checkpoint."""
        texts = sum(len(text) for text in self.texts.values())
        return self.model.nbytes + self.optimizer.nbytes + texts

    @property
    def buffers(self) -> dict[Part, HostBuffer]:
        """The tensors to write, by the part of the state they are."""
        return {"model": self.model, "optimizer": self.optimizer}

    def holding(self, part: Part) -> Holding:
        """Return what this rank holds of one part of the state."""
        found = {}
        for place in self.buffers[part].places:
            own = self.slices.get(place.name)
            shape, begin = (place.shape, 0) if own is None else (tuple(own.shape), own.begin)
            found[place.name] = Held(place.dtype, shape, begin, place.count)
        return found

    def _own(
        self, tensors: Mapping[str, Tensor], slices: Mapping[str, Slice]
    ) -> Mapping[str, Tensor]:
        """Return what this rank is to write of ``tensors``; a slice that is all is whole."""
        if not slices:
            return tensors if self._leader else {}
        own = {}
        for name, tensor in tensors.items():
            part = slices.get(name)
            if part is None:
                if self._leader:
                    own[name] = tensor
            elif self._leader and tensor.numel() == math.prod(part.shape):
                own[name] = tensor.view(part.shape)
            else:
                own[name] = tensor
        return own


def _encode(what: str, value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as JSON, a line for each key: readable, and encoded by the C encoder."""
    try:
        lines = [f" {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the {what} cannot be written as JSON: {error}") from error
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
