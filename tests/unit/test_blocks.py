"""Finding the layers a model is a stack of, and computing their activations again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_single_backend import assert_equal_bits, copied, engine_of, train_steps
from torch import nn
from transformer_parts import small_model, tokens

from llmforge.interfaces import model_blocks
from llmforge_plugins.backends._engine import recompute


def test_blocks_are_the_heaviest_list_and_not_one_inside_a_layer() -> None:
    layers = [nn.Sequential(nn.ModuleList([nn.Linear(8, 8)] * 9)) for _ in range(2)]
    model = nn.Module()
    model.small = nn.ModuleList([nn.Linear(2, 2)])
    model.layers = nn.ModuleList(layers)
    assert model_blocks(model) == layers
    assert model_blocks(nn.Linear(3, 3)) == []


@pytest.mark.parametrize(("asked", "count"), [("none", 0), ("full", 3), (1, 3), (2, 2), (5, 1)])
def test_every_nth_block_is_recomputed(asked: Any, count: int) -> None:
    model = small_model(layers=3)
    before = dict(model.named_parameters())
    assert recompute(model, asked) == count
    assert list(dict(model.named_parameters())) == list(before)
    calls = []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    loss, _ = model.loss({"inputs": tokens(2, 8), "targets": tokens(2, 8, 5)})
    loss.backward()
    assert len(calls) == 3 + count
    calls.clear()
    with torch.no_grad():
        model.loss({"inputs": tokens(2, 8), "targets": tokens(2, 8, 5)})
    assert len(calls) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_equal_bits(precision: str, tmp_path: Path) -> None:
    ends = []
    for asked in ("none", "full"):
        engine = engine_of(
            tmp_path,
            train={"precision": precision, "activation_checkpointing": asked},
            model={"dropout": 0.1},
        )
        train_steps(engine, range(2))
        ends.append(copied(engine.state()))
    assert_equal_bits(*ends)
