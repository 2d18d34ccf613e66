"""A memory plan as text of at most 100 columns, and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from llmforge.planning.plan import HEADROOM, MemoryPlan, Row

_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "total")
_POWERS = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _batch(plan: MemoryPlan) -> str:
    if plan.sequences == 1:
        return f"{plan.batch_size:,} sequences"
    return f"{plan.batch_size:,} examples x {plan.sequences} sequences"


def as_text(plan: MemoryPlan) -> str:
    """Return the plan as a table with what it rests on above it."""
    return "".join(f"{line}\n" for line in _lines(plan))


def as_values(plan: MemoryPlan) -> dict[str, Any]:
    """Return the plan as JSON-serialisable values; memory in bytes."""
    rows = [
        {**asdict(row), "memory": {**asdict(row.memory), "total": row.memory.total}}
        for row in plan.rows
    ]
    return {
        **asdict(plan),
        "tokens_per_step": plan.tokens_per_step,
        "flops_per_step": plan.flops_per_step,
        "usable": plan.usable,
        "rows": rows,
    }


def _lines(plan: MemoryPlan) -> Iterator[str]:
    sizes = plan.sizes
    blocks = sizes.parameters - sizes.outside_blocks
    yield f"{plan.source}: {plan.model}, vocabulary {plan.vocabulary:,}"
    yield f"  parameters  {sizes.parameters:,}, {blocks:,} of them in blocks"
    yield (
        f"  batch       {_batch(plan)} x {plan.context:,} = {plan.tokens_per_step:,} tokens a step"
    )
    yield f"  length      {_length(plan)}"
    yield f"  arithmetic  {_short(plan.flops_per_step)}FLOP a step{_of_run(plan)}"
    yield f"  checkpoint  {_short(plan.checkpoint_bytes)}B"
    yield ""
    yield (
        f"GB on each device, products in {plan.precision}, kernels of {plan.device.upper()}; "
        f"what fits leaves {HEADROOM:.0%} of {_short(plan.memory_limit)}B free"
    )
    yield (
        f"{'backend':<18}{'ranks':>5}{'micro':>6}{'weights':>9}{'grads':>7}{'optim.':>7}"
        f"{'activ.':>8}{'logits':>7}{'total':>8}  largest that fits"
    )
    for row in plan.rows:
        yield _row(plan, row)


def _row(plan: MemoryPlan, row: Row) -> str:
    widths = (9, 7, 7, 8, 7, 8)
    values = {**asdict(row.memory), "total": row.memory.total}
    parts = "".join(f"{_gb(values[name]):>{w}}" for name, w in zip(_PARTS, widths, strict=True))
    fits = "none"
    if row.largest is not None:
        fits = f"{plan.batch_size} = {row.largest} x {row.accumulated} x {row.ranks}"
    return f"{row.strategy:<18}{row.ranks:>5}{row.micro_batch:>6}{parts}  {fits}"


def _length(plan: MemoryPlan) -> str:
    if plan.steps is None:
        return "known with the data (train.epochs)"
    return f"{plan.steps:,} steps, {_short(plan.steps * plan.tokens_per_step)} tokens"


def _of_run(plan: MemoryPlan) -> str:
    if plan.steps is None:
        return ""
    return f", {_short(plan.flops_per_step * plan.steps)}FLOP in all"


def _gb(size: int) -> str:
    value = size / 1e9
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _short(value: float) -> str:
    """Return a number with three digits and a decimal prefix, and a space for the unit.

    >>> _short(131_072)
    '131 k'
    """
    for power, prefix in _POWERS:
        if value >= power:
            return f"{value / power:.3g} {prefix}"
    return f"{value:.3g} "
