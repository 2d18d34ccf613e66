"""hf-causal trains as a loop written by hand over transformers does, on the same batches.

Fifty steps of AdamW in fp32; the losses agree to a relative 5e-6, since the same sums are taken in
another order. Weights are not compared one by one: where a gradient is zero but for rounding, as
that of a key's bias is, Adam makes whole steps of the rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import VOCABULARY, built, model_run, reference, save

from llmforge.interfaces import IGNORE_INDEX
from llmforge.plugins import load
from llmforge.testing import make_component

STEPS, ROWS, LENGTH = 50, 4, 16
RATE = 1e-3
TOLERANCE = 5e-6


def rows(*, padded: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return for each step ids, labels and attention mask, [rows, length]; prompts are unscored."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for _ in range(STEPS):
        ids = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=generator)
        mask, labels = torch.ones_like(ids), ids.clone()
        if padded:
            for row in range(ROWS):
                length = int(torch.randint(6, LENGTH + 1, (), generator=generator))
                mask[row, length:] = 0
                ids[row, length:] = 0
                labels[row, length:] = IGNORE_INDEX
                labels[row, : length // 2] = IGNORE_INDEX
        found.append((ids, labels, mask))
    return found


def by_hand(folder: Path, batches: Any, *, micro: int) -> list[float]:
    """Train as a script over transformers does; return the losses."""
    model = reference(folder)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for ids, labels, mask in batches:
        scored = int((labels[:, 1:] != IGNORE_INDEX).sum())
        total = 0.0
        for start in range(0, ROWS, micro):
            part = slice(start, start + micro)
            loss = model(
                input_ids=ids[part],
                attention_mask=mask[part],
                labels=labels[part],
                num_items_in_batch=scored,
            ).loss
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def by_forge(directory: Path, folder: Path, batches: Any, *, micro: int) -> list[float]:
    """Train with the component, the backend and the optimizer of llmforge."""
    run = model_run(directory, folder)
    engine = (
        make_component(load("backend", "single"), name="single")
        .forge_build_backend(run)  # type: ignore[attr-defined]
        .prepare(
            lambda: built(directory, folder),
            lambda named: make_component(
                load("optimizer", "adamw"), {"lr": RATE}
            ).forge_build_optimizer(run, named),  # type: ignore[attr-defined]
            lambda _step: 1.0,
        )
    )
    losses = []
    for step, (ids, labels, _) in enumerate(batches):
        inputs, targets = ids[:, :-1].contiguous(), labels[:, 1:].contiguous()
        scored = int((targets != IGNORE_INDEX).sum())
        for start in range(0, ROWS, micro):
            part = slice(start, start + micro)
            batch = {"inputs": inputs[part], "targets": targets[part]}
            engine.accumulate(batch, targets=scored, seed=1, last=start + micro == ROWS)
        losses.append(float(engine.step(step).loss_sum) / scored)
    return losses


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("micro", [ROWS, 1], ids=["at once", "accumulated"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_it_trains_as_a_loop_over_transformers(
    tmp_path: Path, kind: str, micro: int, padded: bool
) -> None:
    folder = save(tmp_path / kind, kind)
    batches = rows(padded=padded)
    losses = by_forge(tmp_path, folder, batches, micro=micro)
    wanted = by_hand(folder, batches, micro=micro)
    assert losses == pytest.approx(wanted, rel=TOLERANCE)
    assert max(wanted) - min(wanted) > 1000 * TOLERANCE * wanted[0]  # the steps changed it
