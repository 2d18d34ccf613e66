"""The state of a model and its optimizer by parameter name, and the way back, strictly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmforge.errors import CheckpointError
from llmforge.interfaces import LanguageModel, whole_shape

_NUMBERS = "optimizer_numbers"  # by key, the Python type of what was no tensor
STATELESS = "optimizer_stateless"
"""Key of the values that lists parameters without optimizer state."""
_PYTHON = {"int": int, "float": float}


def trainable(model: LanguageModel) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that train, shared ones once."""
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def model_state(model: LanguageModel) -> dict[str, Tensor]:
    """Return what trains, shared weights once, and persistent buffers, as live references."""
    module = cast("nn.Module", model)
    persistent = module.state_dict(keep_vars=True)
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in persistent}
    return {name: parameter.detach() for name, parameter in trainable(model)} | buffers


def check_model_state(model: LanguageModel, saved: Mapping[str, Tensor]) -> None:
    """Look whether ``saved`` fits the model.

    Raises:
        CheckpointError: the names or shapes are not exactly the model's.
    """
    own = model_state(model)
    check_shapes({name: tuple(tensor.shape) for name, tensor in own.items()}, saved)


def check_shapes(own: Mapping[str, tuple[int, ...]], saved: Mapping[str, Tensor]) -> None:
    """Look whether ``saved`` holds whole tensors of these names and shapes and no others.

    Raises:
        CheckpointError: it does not.
    """
    for name in own:
        if name not in saved:
            raise CheckpointError(f"tensor '{name}' of the model is missing in the checkpoint")
    for name in saved:
        if name not in own:
            raise CheckpointError(f"tensor '{name}' of the checkpoint is not part of the model")
        shape = whole_shape(saved, name)
        if shape != own[name]:
            raise CheckpointError(_misshapen(f"tensor '{name}'", shape, own[name]))


def load_model_state(model: LanguageModel, saved: Mapping[str, Tensor]) -> None:
    """Copy ``saved``, which :func:`check_model_state` found to fit, into the model."""
    with torch.no_grad():
        for name, tensor in model_state(model).items():
            tensor.copy_(saved[name])


def optimizer_state(
    model: LanguageModel, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's tensors as ``parameter/key`` and what is needed to read them back.

    Python numbers become 0-d tensors of 64 bits; the second value says which keys those are, and
    which parameters have no state although others do (they never had a gradient).
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, str] = {}
    stateless = []
    for name, parameter in trainable(model):
        entries = optimizer.state.get(parameter, {})
        if not entries:
            stateless.append(name)
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            elif isinstance(value, int | float):
                numbers[key] = "float" if isinstance(value, float) else "int"
                dtype = torch.float64 if isinstance(value, float) else torch.int64
                tensors[f"{name}/{key}"] = torch.tensor(value, dtype=dtype)
    values: dict[str, Any] = {_NUMBERS: numbers} if numbers else {}
    if tensors and stateless:
        values[STATELESS] = stateless
    return tensors, values


def load_optimizer_state(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Tensor],
    values: Mapping[str, Any],
    *,
    take: Callable[[str, nn.Parameter, bool], Tensor] | None = None,
) -> None:
    """Give the optimizer copies of ``saved``, whether or not it has taken a step already.

    Args:
        model: whose parameters the optimizer steps.
        optimizer: takes the state.
        saved: whole tensors as ``parameter/key``; only their shapes are read here.
        values: what :func:`optimizer_state` returned with them.
        take: makes the optimizer's own tensor of a name and its parameter; the last argument
            says whether it is shaped like the parameter. Absent: a copy of the whole.

    Raises:
        CheckpointError: a tensor belongs to no parameter or does not have its shape, or a
            parameter lacks a tensor.
    """
    parameters = dict(trainable(model))
    numbers = values.get(_NUMBERS, {})
    entries: dict[str, dict[str, Any]] = {}
    for full_name in saved:
        name, _, key = full_name.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None:
            raise CheckpointError(f"optimizer tensor '{full_name}' belongs to no parameter")
        shape = whole_shape(saved, full_name)
        wanted = tuple(parameter.shape)
        if len(shape) == len(wanted) and shape != wanted:
            raise CheckpointError(_misshapen(f"optimizer tensor '{full_name}'", shape, wanted))
        entry = entries.setdefault(name, {})
        if key in numbers:
            entry[key] = _PYTHON[numbers[key]](saved[full_name].item())
        elif take is None:
            entry[key] = saved[full_name].clone()
        else:
            entry[key] = take(full_name, parameter, len(shape) == parameter.dim() > 0)
    groups = optimizer.state_dict()["param_groups"]
    names = {id(parameter): name for name, parameter in parameters.items()}
    state = {}
    for own, numbered in zip(optimizer.param_groups, groups, strict=True):
        members = {names[id(p)]: i for p, i in zip(own["params"], numbered["params"], strict=True)}
        if saved:
            _check_complete(members, entries, values.get(STATELESS, ()))
        state.update({members[name]: entries[name] for name in members if name in entries})
    # the optimizer's own loading moves each tensor to the device it keeps that one on
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_complete(
    group: Iterable[str], entries: Mapping[str, Mapping[str, Any]], stateless: Collection[str]
) -> None:
    """Raise unless all parameters of a group have the same keys, known stateless ones apart."""
    stateful = [name for name in group if name not in stateless]
    keys = dict.fromkeys(key for name in stateful for key in entries.get(name, ()))
    for name in stateful:
        for key in keys or ("...",):
            if key not in entries.get(name, ()):
                raise CheckpointError(f"optimizer tensor '{name}/{key}' is missing")


def _misshapen(what: str, saved: tuple[int, ...], own: tuple[int, ...]) -> str:
    return f"{what} has shape {list(saved)} in the checkpoint, but {list(own)} is needed"
