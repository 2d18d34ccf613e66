"""The files in which a pre-trained model's weights are: which there are, and one tensor at a time.

Shared by the components over pre-trained models; it imports no ``transformers``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._guards import detect_fake_mode

from llmforge_plugins._pretrained import PretrainedError, Repository, Source

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHOWN = 3
"""Names that a message has at most."""


def weights_folder(source: Source, *, remedy: str) -> Path:
    """Return the folder with all weights of the model, fetched if need be.

    Args:
        source: of the model.
        remedy: what to do instead when it has no weights.

    Raises:
        PretrainedError: there are none, or a part of them is missing.
    """
    return weight_files(source, remedy=remedy)[0].parent


def weight_files(source: Source, *, remedy: str) -> list[Path]:
    """Return the files with the weights of the model; further as :func:`weights_folder`."""
    for name, sharded in zip(_WHOLE, _SHARDED, strict=True):
        if (found := source.file(name)) is not None:
            return [found]
        if (index := source.file(sharded)) is not None:
            return _shards(source, index)
    raise PretrainedError(
        f"{source} has no weights: neither {_WHOLE[0]}, nor shards with an index, nor {_WHOLE[1]}",
        remedy=f"download them, or {remedy}",
    )


def resolution(source: Source) -> dict[str, str | None]:
    """Return what a run records of where a model came from."""
    if isinstance(source, Repository):
        return {"repository": source.name, "commit": source.commit}
    return {"folder": str(source.path.resolve())}


def is_outline() -> bool:
    """Return whether only names and shapes of a model are asked for, so that none are read."""
    return torch.get_default_device().type == "meta" or detect_fake_mode() is not None


def few(names: Sequence[str]) -> str:
    """Return the first of ``names`` and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


class WeightFiles:
    """Weights by name, each read when it is asked for; no code in a file is run.

    Args:
        files: as :func:`weight_files` returns them.

    Raises:
        PretrainedError: a file cannot be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._places = {name: file for file in files for name in self._names(file)}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the host."""
        file = self._places[name]
        if file.suffix == ".bin":
            found: Tensor = self._pickled(file)[name]
            return found
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def _names(self, file: Path) -> list[str]:
        try:
            if file.suffix == ".bin":
                return list(self._pickled(file))
            with safe_open(file, framework="pt") as opened:
                return list(opened.keys())
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise PretrainedError(
                f"{file} cannot be read: {error}", remedy="download it again"
            ) from error

    def _pickled(self, file: Path) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(
            file, map_location="cpu", weights_only=True, mmap=True
        )
        return found


def _shards(source: Source, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise PretrainedError(
            f"{index} is not an index of shards", remedy="download it again"
        ) from error
    found = {name: source.file(name) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise PretrainedError(
            f"{source} lacks {len(missing)} of {len(names)} shards of its weights: {few(missing)}",
            remedy=f"copy them into the folder; {index.name} names them all",
        )
    return [file for file in found.values() if file is not None]
