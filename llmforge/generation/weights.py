"""Putting weights into a model by name, and reading files of weights without running code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoint import StoredTensors
from llmforge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_NESTED = ("model_state_dict", "state_dict", "model", "module", "weights")
"""Keys under which training scripts are used to keep the weights in a larger file."""

_PREFIXES = ("module.", "_orig_mod.", "_forward_module.")
"""What wrappers (DDP, torch.compile, Fabric) put before every name."""


def load_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the weights in a ``.safetensors``, ``.pt`` or ``.pth`` file by name, on the CPU.

    Raises:
        CheckpointError: the file cannot be read without running code, or holds no weights.
    """
    if path.suffix == ".safetensors":
        return StoredTensors.of_file(path)
    return load_legacy_weights(path)


def load_legacy_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a ``.pt`` or ``.pth`` file by name, on the CPU.

    The file may hold the state dict itself or keep it under a common key; prefixes of wrappers
    are taken off. Only tensors and plain containers are read, never code.

    Raises:
        CheckpointError: the file cannot be read without running code, or holds no weights.
    """
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise CheckpointError(
            f"{path} does not hold weights alone: reading it would run code from the file, "
            "or it is damaged",
            remedy="if you trust it, save its weights alone: "
            "torch.save(model.state_dict(), 'weights.pt')",
        ) from error
    found = _state_dict(content)
    if found is None:
        raise CheckpointError(
            f"{path} holds no weights by name",
            remedy="a state dict is expected, alone or under one of: " + ", ".join(_NESTED),
        )
    return {_bare(name): tensor for name, tensor in found.items()}


def fill(
    model: Any, tensors: Mapping[str, Tensor], *, source: Path, built_in: Collection[str] = ()
) -> None:
    """Copy ``tensors`` into the parameters and buffers of ``model`` by name.

    Every parameter and persistent buffer must be there; of shared ones one name is enough. Those
    of ``built_in`` the model has already: they may be left out.

    Raises:
        CheckpointError: names or shapes do not fit; nothing was copied.
    """
    import torch

    own: dict[str, Tensor] = model.state_dict()
    given = {own[name].data_ptr() for name in (*tensors, *built_in) if name in own}
    missing = [
        name for name, item in own.items() if name not in tensors and item.data_ptr() not in given
    ]
    unknown = [name for name in tensors if name not in own]
    reshaped = [
        f"{name} is {list(shape)}, not {list(own[name].shape)}"
        for name, shape in _shapes(tensors).items()
        if name in own and shape != tuple(own[name].shape)
    ]
    wrong = [
        f"{what}: {_few(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("shape", reshaped))
        if names
    ]
    if wrong:
        raise CheckpointError(
            f"the weights in {source} do not fit the model of the recipe; " + "; ".join(wrong)
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    if isinstance(tensors, StoredTensors):
        return {name: tensors.shape(name) for name in tensors}  # reads none of them
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    import torch

    if not isinstance(content, Mapping):
        return None
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _state_dict(content[key])
    tensors = {str(name): item for name, item in content.items() if isinstance(item, torch.Tensor)}
    return tensors if tensors and len(tensors) == len(content) else None


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return _bare(name.removeprefix(prefix))
    return name


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
