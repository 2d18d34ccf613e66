"""Kernels are measured once on a machine, kept by the run, and chosen anew on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformer_parts import small_model, tokens

from llmforge.distributed import Alone
from llmforge.run.setup import kernel_choices
from llmforge.run.setup.kernel_choices import choose_kernels
from llmforge_plugins.models import _linear, _measure_kernels
from llmforge_plugins.models._attention import (
    ATTENTION,
    EXPLICIT,
    FUSED,
    WITH_DROPOUT,
    causal_attention,
)
from llmforge_plugins.models._kernels import PLAIN, chosen_kernel, linear_name, using_kernels
from llmforge_plugins.models._linear import (
    FORWARD,
    INPUT_GRADIENT,
    ONEDNN,
    TRANSPOSED,
    WEIGHT_GRADIENT,
    linear,
)


class Model:
    """Says what each way takes, and keeps what it is told."""

    def __init__(self, times: dict[str, dict[str, float]]) -> None:
        self.architecture = {"layers": 2}
        self.times, self.used, self.measured = times, {}, 0

    def measure_kernels(self, **settings: Any) -> dict[str, dict[str, float]]:
        assert settings["seconds"] == 1.0
        self.measured += 1
        return self.times

    def use_kernels(self, chosen: dict[str, str]) -> None:
        self.used = dict(chosen)


TIMES = {
    "product": {"torch": 1.0, "other": 0.5},
    "hardly": {"torch": 1.0, "other": 0.99},
    "slower": {"torch": 1.0, "other": 2.0},
}
TAKEN = {"product": "other", "hardly": "torch", "slower": "torch"}


def choose(model: Any, cache: Path, **changes: Any) -> tuple[Any, list[str]]:
    told: list[str] = []
    arguments: dict[str, Any] = {"rows": 4, "length": 8, "bf16": False} | changes
    resolved = arguments.pop("resolved", {})
    found = choose_kernels(
        model, resolved, cache=cache, team=Alone(), notice=told.append, **arguments
    )
    return found, told


def test_the_clearly_faster_way_is_taken(tmp_path: Path) -> None:
    model = Model(TIMES)
    found, told = choose(model, tmp_path)
    assert model.used == found.chosen == TAKEN and not told
    assert found.lines() == [
        "kernels: 3 measured, faster than as usual: 1 other (each is in 'forge runs show')"
    ]


def test_it_is_measured_once_for_a_model_and_settings(tmp_path: Path) -> None:
    choose(Model(TIMES), tmp_path)
    again = Model({"product": {"torch": 0.1, "other": 5.0}})
    assert choose(again, tmp_path)[0].chosen == TAKEN and not again.measured
    for changes in ({"rows": 5}, {"length": 9}, {"bf16": True}):
        assert choose(again, tmp_path, **changes)[0].chosen == {"product": "torch"}
    assert again.measured == 3


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"machine": "here", "chosen": {"product": "nonsense"}, "milliseconds": {"product": {}}}',
        '{"machine": "here", "chosen": {"product": "other"}, "milliseconds": {}}',
        '{"machine": "here", "chosen": [], "milliseconds": {}}',
    ],
)
def test_a_damaged_cache_is_measured_again(tmp_path: Path, text: str) -> None:
    choose(Model(TIMES), tmp_path)
    (path,) = (tmp_path / "kernels").glob("*.json")
    path.write_text(text)
    model = Model(TIMES)
    assert choose(model, tmp_path)[0].chosen == TAKEN and model.measured == 1
    assert json.loads(path.read_text())["chosen"] == TAKEN


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("not a directory")
    assert choose(Model(TIMES), tmp_path)[0].chosen == TAKEN


def test_a_model_too_small_to_measure_has_nothing_to_say(tmp_path: Path) -> None:
    found, _ = choose(Model({}), tmp_path)
    assert found.chosen == {} and found.lines() == []


def kept(machine: str | None = None) -> dict[str, Any]:
    return {
        "kernels": {
            "machine": machine or kernel_choices._machine(),
            "chosen": {"product": "torch"},
            "milliseconds": {"product": {"torch": 1.0, "other": 2.0}},
        }
    }


def test_a_resume_keeps_the_choice(tmp_path: Path) -> None:
    model = Model(TIMES)
    found, told = choose(model, tmp_path, resolved=kept())
    assert model.used == found.chosen == {"product": "torch"}
    assert not model.measured and not told


def test_a_resume_on_another_machine_chooses_anew_and_says_so(tmp_path: Path) -> None:
    model = Model(TIMES)
    found, told = choose(model, tmp_path, resolved=kept("a slower one"))
    assert model.used == TAKEN and found.machine == kernel_choices._machine()
    assert told == [
        "this is another machine than before, or other threads or libraries: "
        "3 of 3 kernels are chosen anew; results differ by rounding"
    ]


def test_a_run_from_before_keeps_what_it_had(tmp_path: Path) -> None:
    model = Model(TIMES)
    found, _ = choose(model, tmp_path, resolved={"device": "cpu"})
    assert model.used == {} == found.chosen and not model.measured


def test_a_model_without_a_choice_has_none(tmp_path: Path) -> None:
    assert choose(object(), tmp_path) == (None, [])


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"])
def test_held_back_instructions_are_another_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel_choices._machine()
    monkeypatch.setenv(name, "AVX2")
    assert kernel_choices._machine() != before


# The transformer's own


def test_every_way_of_the_transformer_is_timed_and_none_is_left_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model(dropout=0.1).train()
    state = torch.get_rng_state()
    with using_kernels({}):
        assert model.measure_kernels(rows=64, length=12, bf16=False, seconds=1.0) == {}
        monkeypatch.setattr(_measure_kernels, "_LITTLE", 0)
        times = model.measure_kernels(rows=64, length=12, bf16=False, seconds=0.0)
        assert chosen_kernel(ATTENTION) is None
    assert torch.equal(state, torch.get_rng_state())
    assert set(times[ATTENTION]) == set(times[WITH_DROPOUT]) == {FUSED, EXPLICIT}
    if _linear.onednn_is_there():
        assert len(times) == 3 + 3 * len({(96, 32), (32, 32), (128, 32), (32, 64), (61, 32)})
    assert all(0 < took < 1e4 for ways in times.values() for took in ways.values())


@pytest.mark.skipif(not _linear.onednn_is_there(), reason="needs oneDNN")
@pytest.mark.parametrize("forward", [PLAIN, ONEDNN])
@pytest.mark.parametrize("of_input", [PLAIN, ONEDNN])
@pytest.mark.parametrize("of_weight", [PLAIN, ONEDNN, TRANSPOSED])
def test_linear_maps_are_the_same_in_every_way(forward: str, of_input: str, of_weight: str) -> None:
    torch.manual_seed(1)
    inputs, weight = torch.randn(3, 40, 8, requires_grad=True), torch.randn(6, 8).requires_grad_()
    bias = torch.randn(6, requires_grad=True)
    expected = functional.linear(inputs, weight, bias)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (inputs, weight, bias), grad)
    ways = {FORWARD: forward, INPUT_GRADIENT: of_input, WEIGHT_GRADIENT: of_weight}
    with using_kernels({linear_name(name, 6, 8): way for name, way in ways.items()}):
        found = linear(inputs, weight, bias)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(found, (inputs, weight, bias), grad)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", [FUSED, EXPLICIT])
def test_dropped_attention_weights_are_those_of_their_share(way: str) -> None:
    torch.manual_seed(3)
    values = torch.ones(64, 32, 6, 8)
    values[:, :, :4] = torch.randn(64, 32, 4, 8)
    with using_kernels({WITH_DROPOUT: way}):
        mixed = causal_attention(values, 2, None, dropout=0.25)
    # values are ones, so each output is the sum of the kept weights, scaled to mean 1
    assert abs(float(mixed.mean()) - 1) < 0.02
    first = mixed[:, 0]  # one weight only: kept or not
    kept = torch.isclose(first, torch.tensor(4 / 3), atol=1e-5)
    assert (kept | (first == 0)).all() and abs(float(kept.float().mean()) - 0.75) < 0.15


def test_the_gradient_of_dropped_attention_is_that_of_what_was_kept() -> None:
    qkv = torch.randn(2, 5, 6, 4, dtype=torch.float64, requires_grad=True)

    def mixed(each: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return causal_attention(each, 2, None, dropout=0.4)

    with using_kernels({WITH_DROPOUT: EXPLICIT}):
        assert torch.autograd.gradcheck(mixed, (qkv,))


def test_a_loss_in_other_chunks_is_the_same() -> None:
    model = small_model()
    batch = {"inputs": tokens(30, 12), "targets": tokens(30, 12, seed=4)}
    losses = []
    for size in ("512", "256", "32"):
        with using_kernels({"loss chunk": size}):
            losses.append(model.loss(batch)[0])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
