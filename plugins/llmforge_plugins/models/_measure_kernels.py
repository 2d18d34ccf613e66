"""Times the ways in which a transformer can compute its parts on this CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from llmforge_plugins.models._attention import (
    ATTENTION,
    EXPLICIT,
    FUSED,
    WITH_DROPOUT,
    causal_attention,
)
from llmforge_plugins.models._cross_entropy import LOSS_CHUNK, LOSS_CHUNKS, linear_cross_entropy
from llmforge_plugins.models._kernels import PLAIN, linear_name, using_kernels
from llmforge_plugins.models._linear import (
    FORWARD,
    INPUT_GRADIENT,
    ONEDNN,
    TRANSPOSED,
    WEIGHT_GRADIENT,
    Linear,
    has_matrix,
    input_gradient,
    onednn_is_there,
    output_product,
    weight_gradient,
)
from llmforge_plugins.models._shape import Shape

_ROUNDS = 7  # at most; the fastest of them counts
_FEWEST_ROUNDS = 3
_PATIENCE = 3.0  # waiting on a busy machine is not measuring, up to so many times the seconds
_BUSY = 1.5  # wall time to that of the processor
_LITTLE = 2e7  # floating-point operations of what is too small to matter
_WORK = 1e9  # floating-point operations of one product at most: about 10 ms of a slow core
_LOSS_ROWS = 2048

Way = Callable[[], object]
Ways = dict[str, dict[str, Way]]


def measure_kernels(
    model: nn.Module,
    shape: Shape,
    output: Tensor,
    *,
    rows: int,
    length: int,
    bf16: bool,
    seconds: float,
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each way to compute what there are several ways for.

    All take turns, so that a busy moment of the machine meets all alike; the fastest turn of each
    counts. What takes long is measured on fewer rows.

    Args:
        model: whose linear maps are measured.
        shape: of the model.
        output: its output matrix [vocabulary, width].
        rows: sequences computed at once.
        length: their tokens at most.
        bf16: whether products are computed in bf16 (autocast).
        seconds: how long to compute, if that is enough for three turns.
    """
    ways: Ways = {}
    ways |= _attention_ways(shape, rows=rows, length=length, bf16=bf16)
    if not bf16:
        ways |= _linear_ways(model, output, tokens=rows * length)
    ways |= _loss_ways(output, rows=min(_LOSS_ROWS, rows * length))
    with (
        torch.random.fork_rng(devices=[]),  # dropout draws
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        return _timed(ways, seconds=seconds)


def _timed(ways: Ways, *, seconds: float) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each way: wall time, on a busy machine the processor's."""
    walls = {name: dict.fromkeys(each, float("inf")) for name, each in ways.items()}
    works = {name: dict.fromkeys(each, float("inf")) for name, each in ways.items()}
    begin, waited, worked = time.perf_counter(), 0.0, 0.0
    for turn in range(_ROUNDS + 1):
        for name, each in ways.items():
            for way, compute in each.items():
                with using_kernels({name: way}):
                    wall, work = time.perf_counter(), time.process_time()
                    compute()
                    wall = time.perf_counter() - wall
                    work = (time.process_time() - work) / torch.get_num_threads()
                if turn:  # the first turn prepares kernels and memory
                    walls[name][way] = min(walls[name][way], wall * 1e3)
                    works[name][way] = min(works[name][way], work * 1e3)
                    waited, worked = waited + wall, worked + work
        late = worked > seconds or time.perf_counter() - begin > _PATIENCE * seconds
        if late and turn >= _FEWEST_ROUNDS:
            break
    return works if waited > _BUSY * worked else walls


def _linear_ways(model: nn.Module, output: Tensor, *, tokens: int) -> Ways:
    if not onednn_is_there():
        return {}
    shapes = {
        tuple(layer.weight.shape)
        for layer in model.modules()
        if isinstance(layer, Linear) and has_matrix(layer)
    }
    shapes.add(tuple(output.shape))
    ways: Ways = {}
    for outputs, inputs in sorted(shapes):
        if 2 * tokens * outputs * inputs < _LITTLE:
            continue
        most = max(64, int(_WORK / (2 * outputs * inputs)))
        rows = min(tokens, most, int(LOSS_CHUNKS[0]) if outputs == len(output) else tokens)
        ways |= _ways_of_shape(rows, outputs, inputs)
    return ways


def _ways_of_shape(rows: int, outputs: int, inputs: int) -> Ways:
    hidden, weight, grad = (
        torch.ones(size) for size in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    operations: dict[str, tuple[Way, tuple[str, ...]]] = {
        FORWARD: (lambda: output_product(hidden, weight), (PLAIN, ONEDNN)),
        INPUT_GRADIENT: (lambda: input_gradient(grad, weight), (PLAIN, ONEDNN)),
        WEIGHT_GRADIENT: (
            lambda: weight_gradient(grad, hidden, weight),
            (PLAIN, ONEDNN, TRANSPOSED),
        ),
    }
    return {
        linear_name(operation, outputs, inputs): dict.fromkeys(names, compute)
        for operation, (compute, names) in operations.items()
    }


def _attention_ways(shape: Shape, *, rows: int, length: int, bf16: bool) -> Ways:
    if 4 * rows * shape.mixed_width * length**2 < _LITTLE:
        return {}
    size = (rows, length, shape.heads + 2 * shape.kv_heads, shape.head_size)
    dtype = torch.bfloat16 if bf16 else torch.float32
    qkv = torch.full(size, 0.1, dtype=dtype, requires_grad=True)

    def compute(dropout: float) -> None:
        mixed = causal_attention(qkv, shape.heads, None, dropout=dropout)
        mixed.backward(mixed.detach())

    ways: Ways = {ATTENTION: dict.fromkeys((FUSED, EXPLICIT), partial(compute, 0.0))}
    if shape.dropout:
        ways[WITH_DROPOUT] = dict.fromkeys((FUSED, EXPLICIT), partial(compute, shape.dropout))
    return ways


def _loss_ways(output: Tensor, *, rows: int) -> Ways:
    vocabulary, width = output.shape
    rows = min(rows, max(512, int(2 * _WORK / (6 * vocabulary * width))))
    hidden = torch.full((rows, width), 0.01, requires_grad=True)
    weight = torch.full((vocabulary, width), 0.01, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.int64)
    sizes = [size for size in LOSS_CHUNKS if int(size) <= rows]
    if len(sizes) < 2 or 2 * rows * vocabulary * width < _LITTLE:
        return {}
    return {LOSS_CHUNK: dict.fromkeys(sizes, lambda: linear_cross_entropy(hidden, weight, targets))}
