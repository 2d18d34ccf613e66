"""The model keeps the contract of its kind, and computes the published recurrence."""

from __future__ import annotations

from typing import ClassVar

import torch
from llmforge.testing import ModelContract

from llmforge_hello._mingru import MinGru as Unit
from llmforge_hello.model import MinGru


class TestMinGru(ModelContract):
    component = MinGru
    options: ClassVar = {"context": 16, "layers": 2, "width": 16}
    learning_rate = 1e-2


def test_a_closed_gate_keeps_the_state_and_an_open_one_replaces_it() -> None:
    unit = Unit(1)
    with torch.no_grad():
        unit.gate.weight.fill_(1000.0)  # open for inputs above 0, closed below
        unit.gate.bias.zero_()
        unit.candidate.weight.fill_(3.0)
        unit.candidate.bias.zero_()
        inputs = torch.tensor([[[1.0], [-1.0], [2.0], [-5.0]]])
        states = unit(inputs, torch.zeros(1, 1))
    assert states.flatten().tolist() == [3.0, 3.0, 6.0, 6.0]


def test_a_half_open_gate_moves_half_of_the_way() -> None:
    unit = Unit(1)
    with torch.no_grad():
        unit.gate.weight.zero_()
        unit.gate.bias.zero_()
        unit.candidate.weight.fill_(1.0)
        unit.candidate.bias.zero_()
        states = unit(torch.full((1, 3, 1), 8.0), torch.zeros(1, 1))
    assert states.flatten().tolist() == [4.0, 6.0, 7.0]
