"""Engines trained by real ranks over gloo, started by one call for many checks.

The data order is the core's: the global batch of a step does not depend on the number of ranks.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from llmforge.interfaces import Engine, EngineState
from llmforge.plugins import load
from llmforge.testing import make_component, run_context
from llmforge_plugins.models._shape import Shape, default_feed_forward
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.optimizers.adamw import AdamW

VOCABULARY, CONTEXT, BATCH = 67, 12, 8


def run_ranks(world_size: int, work: Callable[..., None], directory: Path, *args: Any) -> None:
    """Call ``work(rank, directory, *args)`` in ``world_size`` processes of one gloo group.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the rank that failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (world_size, port, work, directory, args), nprocs=world_size)


def _rank(
    rank: int, world_size: int, port: int, work: Callable[..., None], directory: Path, args: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group("cpu:gloo", rank=rank, world_size=world_size)
    work(rank, directory, *args)
    dist.barrier()
    # A thread of gloo that has a tensor to give back aborts an interpreter that takes itself apart.
    os._exit(0)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Which engine, with which options; ``str`` is its name in tables."""

    backend: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    precision: str = "fp32"
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.backend + "".join(f"-{value}" for value in self.options.values())


def make_model(
    *, frozen: tuple[str, ...] = (), lora_rank: int | None = None, **changes: Any
) -> TransformerModel:
    """Return a transformer whose parameters do not divide evenly among ranks.

    Args:
        frozen: parameters that do not train.
        lora_rank: of ``lora`` matrices beside its linear maps; nothing else trains then.
        changes: fields of its shape.
    """
    fields: dict[str, Any] = {"layers": 3, "width": 20, "heads": 2, "kv_heads": 2}
    fields |= {"context": CONTEXT, **changes}
    fields.setdefault("head_size", fields["width"] // fields["heads"])
    fields.setdefault("qkv_bias", fields.get("bias", False))
    fields.setdefault(
        "feed_forward", default_feed_forward(fields["width"], fields.get("activation", "swiglu"))
    )
    torch.manual_seed(1)
    model = TransformerModel(Shape(**fields), vocab_size=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    if lora_rank is not None:
        # a start whose first step changes both matrices
        options = {"r": lora_rank, "init": "gaussian", "modules_to_save": ["norm"]}
        adapter: Any = make_component(load("adapter", "lora"), options)
        torch.manual_seed(2)
        adapter.forge_build_adapter().apply(model)
    return model


def make_engine(setup: Setup, directory: Path) -> Engine:
    """Return the engine of this rank."""
    alone = not dist.is_initialized()
    rank = 0 if alone else dist.get_rank()
    context = run_context(
        directory / f"rank{rank}",
        train={"precision": setup.precision, "grad_clip": 0.5, **setup.train},
        rank=rank,
        world_size=1 if alone else dist.get_world_size(),
    )
    backend = make_component(load("backend", setup.backend), setup.options)
    optimizer = make_component(AdamW, {"lr": 3e-3, "weight_decay": 0.1})
    built: Any = backend.forge_build_backend(run=context)
    engine: Engine = built.prepare(
        lambda: make_model(**setup.model),
        lambda named: optimizer.forge_build_optimizer(run=context, parameters=named),
        lambda step: 1.0 / (1 + 0.2 * step),
    )
    return engine


def global_batch(step: int) -> dict[str, Tensor]:
    """Return the ``BATCH`` sequences of a step; a few targets are not scored."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=generator)
    # something to learn: every second token follows from the one before
    tokens[:, 1::2] = (tokens[:, 0:-1:2] * 3 + 1) % VOCABULARY
    targets = tokens[:, 1:].clone()
    targets[::3, :4] = -100
    return {"inputs": tokens[:, :-1].contiguous(), "targets": targets}


def train(engine: Engine, steps: range, *, micro: int = 2) -> list[tuple[float, float]]:
    """Train and return the mean loss of the global batch and the gradient norm of each step."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    curve = []
    for step in steps:
        batch = global_batch(step)
        targets = int((batch["targets"] != -100).sum())
        rounds = BATCH // (world * micro)
        for index in range(rounds):
            number = index * world + rank
            rows = slice(number * micro, (number + 1) * micro)
            engine.accumulate(
                {name: tensor[rows] for name, tensor in batch.items()},
                targets=targets,
                seed=step * 1000 + number,
                last=index == rounds - 1,
            )
        result = engine.step(step)
        curve.append((summed(result.loss_sum) / targets, float(result.grad_norm)))
    return curve


def summed(value: Tensor) -> float:
    """Return the sum of a scalar over ranks."""
    total = value.detach().double().cpu()
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total)


def whole_state(engine: Engine) -> EngineState:
    """Return a copy of the state of all ranks put together, on every rank.

    Raises:
        AssertionError: slices overlap, leave a gap, or ranks differ in what is whole.
    """
    state = engine.state()
    mine = {
        name: (tensor.detach().clone().cpu(), state.slices.get(name))
        for part in (state.model, state.optimizer)
        for name, tensor in part.items()
    }
    everyone: list[Any] = [mine]
    if dist.is_initialized():
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
    names = list(dict.fromkeys(name for held in everyone for name in held))
    whole = {
        name: _joined(name, [held[name] for held in everyone if name in held]) for name in names
    }
    return EngineState(
        {name: tensor for name, tensor in whole.items() if "/" not in name},
        {name: tensor for name, tensor in whole.items() if "/" in name},
        dict(state.values),
    )


def _joined(name: str, pieces: list[Any]) -> Tensor:
    first, place = pieces[0]
    if place is None:
        assert all(other is None and torch.equal(tensor, first) for tensor, other in pieces), name
        return first
    found = torch.zeros(place.shape, dtype=first.dtype).flatten()
    seen = torch.zeros_like(found, dtype=torch.int32)
    for tensor, part in pieces:
        assert part.shape == place.shape, name
        assert tensor.dim() == 1, name
        found[part.begin : part.begin + tensor.numel()] = tensor
        seen[part.begin : part.begin + tensor.numel()] += 1
    assert bool((seen == 1).all()), f"{name}: every element must be held by exactly one rank"
    return found.view(place.shape)


def clone_state(state: EngineState) -> EngineState:
    """Return a copy that a later step does not change."""
    return EngineState(
        {name: tensor.clone() for name, tensor in state.model.items()},
        {name: tensor.clone() for name, tensor in state.optimizer.items()},
        dict(state.values),
        dict(state.slices),
    )


def differing(left: EngineState, right: EngineState) -> list[str]:
    """Return the names of tensors that are not the same to the bit in two whole states."""
    mine, yours = ({**state.model, **state.optimizer} for state in (left, right))
    return [
        name
        for name in mine.keys() | yours.keys()
        if name not in mine or name not in yours or not torch.equal(mine[name], yours[name])
    ]


class OnlyParts(dict[str, Tensor]):
    """Whole tensors of which only parts may be read; remembers which were."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: dict[str, tuple[int, int]] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return a scalar; anything larger is not to be read whole."""
        tensor = super().__getitem__(name)
        assert tensor.dim() == 0, f"{name} was read whole"
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        return tuple(super().__getitem__(name).shape)

    def slice(self, name: str, begin: int, count: int) -> Tensor:
        """Return a part."""
        self.read[name] = (begin, count)
        return super().__getitem__(name).reshape(-1)[begin : begin + count]
