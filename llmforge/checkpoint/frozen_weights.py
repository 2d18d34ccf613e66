"""What a checkpoint leaves out: weights that do not train, named by a hash of their content.

They are where the model component gets them when it builds the model: a pre-trained folder, or the
run's seed. A checkpoint says which they were, and is used over no others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmforge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_MOST_THREADS = 8
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class FrozenWeights:
    """The weights of a model that do not train.

    Attributes:
        sha256: of their names, shapes, types and bytes; see :func:`hash_tensors`.
        parameters: how many numbers they are.
        source: where they came from, for people.
    """

    sha256: str
    parameters: int
    source: str


def frozen_parameters(model: Any) -> dict[str, Tensor]:
    """Return the parameters of ``model`` that do not require a gradient, by name."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and bytes of ``tensors``, in order of names.

    The bytes of each tensor are hashed on their own, several at once, and their hashes together
    with the rest, so that billions of weights take seconds.
    """
    names = sorted(tensors)
    threads = min(_MOST_THREADS, os.cpu_count() or 1, max(1, len(names)))
    with ThreadPoolExecutor(threads) as pool:
        contents = pool.map(lambda name: _hash_bytes(tensors[name]), names)
        lines = [
            f"{name}\t{tensors[name].dtype}\t{list(tensors[name].shape)}\t{content}\n"
            for name, content in zip(names, contents, strict=True)
        ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_same_weights(
    expected: FrozenWeights | None, found: FrozenWeights | None, *, owner: str
) -> None:
    """Refuse to use what was trained over other frozen weights than those at hand.

    Args:
        expected: what ``owner`` was trained over; None: it has all its weights itself.
        found: what the model was built with; None: it has none that are frozen.
        owner: the run or checkpoint, as messages name it.

    Raises:
        CheckpointError: they differ, with both and a remedy.
    """
    if expected is None or (found is not None and found.sha256 == expected.sha256):
        return
    remedy = "put the weights back where they were; to train over others, start a new run"
    if found is None:
        raise CheckpointError(
            f"{owner} was trained over frozen weights ({_told(expected)}), but the model that was "
            "built has none",
            remedy=remedy,
        )
    raise CheckpointError(
        f"{owner} was trained over other frozen weights than the model has now: "
        f"expected {_told(expected)}; found {_told(found)}",
        remedy=remedy,
    )


def hash_stored(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """Return what :func:`hash_tensors` returns for those of ``tensors`` with these ``names``."""
    return hash_tensors({name: tensors[name] for name in names})


def _told(weights: FrozenWeights) -> str:
    return f"{weights.source}, sha256 {weights.sha256[:_SHOWN]}"


def _hash_bytes(tensor: Tensor) -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
