"""AdamW and Muon: which parameters get what; their contract is tested elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformer_parts import small_model, tokens

from llmforge.interfaces import MatmulSpeed
from llmforge.testing import make_component
from llmforge_plugins.optimizers._muon import is_hidden_matrix
from llmforge_plugins.optimizers._muon_variants import orthogonalised
from llmforge_plugins.optimizers.adamw import AdamW
from llmforge_plugins.optimizers.muon import Muon


def built(component: type, run: Any, model: torch.nn.Module, **options: Any) -> Any:
    plugin = make_component(component, options)
    return plugin.forge_build_optimizer(run=run, parameters=list(model.named_parameters()))


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model.loss({"inputs": tokens(2, 12), "targets": tokens(2, 12, 4)})[0].backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("component", [AdamW, Muon])
def test_matrices_decay_and_scales_and_biases_do_not(
    component: type, forge_run_context: Any
) -> None:
    model = small_model(bias=True, norm="layernorm")
    optimizer = built(component, forge_run_context, model, weight_decay=0.3)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() > 1 else 0.0)


def test_adamw_takes_its_options_and_is_fused(forge_run_context: Any) -> None:
    optimizer = built(
        AdamW, forge_run_context, small_model(), lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6
    )
    for group in optimizer.param_groups:
        assert (group["initial_lr"], group["betas"], group["eps"]) == (0.01, (0.8, 0.9), 1e-6)
        assert group["fused"]


def test_adamw_steps_as_the_formula_says(forge_run_context: Any) -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    plugin = make_component(AdamW, {"lr": 0.1, "weight_decay": 0.5})
    optimizer = plugin.forge_build_optimizer(run=forge_run_context, parameters=[("w", weight)])
    weight.grad = torch.tensor([[3.0, 0.5]])
    optimizer.step()
    # after one step both moments are the gradient's own: the update is its sign
    expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.1 * 0.5) - 0.1
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"beta1": 1.0}, {"weight_decay": -0.1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    for component in (AdamW, Muon):
        with pytest.raises(ValidationError):
            component.Options(**options)


def test_muon_is_for_hidden_matrices_only() -> None:
    model = small_model(tie_embeddings=False, positions="learned", bias=True)
    chosen = {name for name, p in model.named_parameters() if is_hidden_matrix(name, p)}
    maps = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    assert chosen == {f"blocks.{layer}.{part}.weight" for layer in range(2) for part in maps}


@pytest.mark.parametrize("name", ["h.wte.weight", "lm_head.weight", "embed_tokens.weight"])
def test_embeddings_of_other_models_are_known_by_name(name: str) -> None:
    assert not is_hidden_matrix(name, torch.nn.Parameter(torch.zeros(4, 4)))


def test_muon_moves_a_matrix_equally_in_all_directions(forge_run_context: Any) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    plugin = make_component(Muon, {"lr": 1.0, "weight_decay": 0.0, "adjust_lr": "original"})
    optimizer = plugin.forge_build_optimizer(run=forge_run_context, parameters=[("w", weight)])
    gradient = torch.randn(8, 8)
    weight.grad = gradient.clone()
    optimizer.step()
    moved = torch.linalg.svdvals(weight.detach())
    assert float(moved.min()) > 0.5 * float(moved.max())
    assert float((weight.detach() * gradient).sum()) < 0


def test_muon_shares_state_and_groups_with_both_parts(forge_run_context: Any) -> None:
    model = small_model()
    optimizer = built(Muon, forge_run_context, model, lr=0.02, adamw_lr=0.003)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.02, 0.003, 0.003]
    step(model, optimizer)
    names = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    assert names["blocks.0.attention.qkv.weight"] == {"momentum_buffer"}
    assert names["embedding.weight"] == {"step", "exp_avg", "exp_avg_sq"}


def test_a_rate_of_zero_reaches_both_parts_after_loading_a_state(forge_run_context: Any) -> None:
    model = small_model()
    optimizer = built(Muon, forge_run_context, model)
    step(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


# Muon's number format


def on_cpu(run: Any, *, bf16_is_native: bool) -> Any:
    speed = MatmulSpeed(bf16_is_native=bf16_is_native, fp32=1.0, bf16=1.0)
    return dataclasses.replace(run, matmul_speed=speed)


MUON = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "ns_steps": 4}


@pytest.mark.parametrize("nesterov", [True, False])
def test_where_bf16_is_native_muon_is_pytorchs_to_the_bit(
    nesterov: bool, forge_run_context: Any
) -> None:
    run = on_cpu(forge_run_context, bf16_is_native=True)
    weights = trained_by(Muon, run, (12, 20), nesterov=nesterov)
    expected = torch_muon((12, 20), nesterov=nesterov)
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("adjust_lr", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_elsewhere_it_is_the_same_in_fp32(
    shape: tuple[int, int], adjust_lr: str, nesterov: bool, forge_run_context: Any
) -> None:
    run = on_cpu(forge_run_context, bf16_is_native=False)
    weights = trained_by(Muon, run, shape, adjust_lr=adjust_lr, nesterov=nesterov)
    expected = torch_muon(shape, adjust_lr_fn=adjust_lr, nesterov=nesterov)
    assert not torch.equal(weights, expected)
    moved = (weights - start(shape)).norm()
    assert (weights - expected).norm() < 0.03 * moved  # three steps rounded to 8 bits


def test_a_state_of_one_format_is_one_of_the_other(forge_run_context: Any) -> None:
    model = small_model()
    before = built(Muon, on_cpu(forge_run_context, bf16_is_native=True), model)
    step(model, before)
    after = built(Muon, on_cpu(forge_run_context, bf16_is_native=False), model)
    after.load_state_dict(before.state_dict())
    step(model, after)
    assert {p: set(after.state[p]) for p in model.parameters()} == {
        p: set(before.state[p]) for p in model.parameters()
    }
    assert [set(group) for group in after.param_groups] == [
        set(group) for group in before.param_groups
    ]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("shape", [(24, 16), (16, 16), (16, 32), (64, 16)])
def test_newton_schulz_in_fp32_rounds_nothing_to_bf16(shape: tuple[int, int], steps: int) -> None:
    matrix = start(shape).double()
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    values = singular / matrix.norm()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    expected = left @ torch.diag(values) @ right
    found = orthogonalised(matrix.float(), coefficients=coefficients, steps=steps, eps=1e-7)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-5)


def test_embeddings_decay_by_their_own_rate(forge_run_context: Any) -> None:
    model = small_model()
    for given, expected in (({}, 0.1), ({"adamw_weight_decay": 0.3}, 0.3)):
        component = make_component(Muon, {"weight_decay": 0.1, **given})
        optimizer = component.forge_build_optimizer(
            run=forge_run_context, parameters=list(model.named_parameters())
        )
        decays = {
            id(p): group["weight_decay"]
            for group in optimizer.param_groups
            for p in group["params"]
        }
        assert decays[id(model.embedding.weight)] == expected
        assert decays[id(model.blocks[0].attention.qkv.weight)] == 0.1
        assert decays[id(model.norm.weight)] == 0.0


# Muon's variants


@pytest.mark.parametrize("bf16", [True, False])
def test_a_variant_alone_changes_nothing_else(bf16: bool, forge_run_context: Any) -> None:
    run, shape = on_cpu(forge_run_context, bf16_is_native=bf16), (12, 20)
    plain = trained_by(Muon, run, shape, weight_decay=0.0)
    cautious = trained_by(Muon, run, shape, weight_decay=0.0, cautious_decay=True)
    assert torch.allclose(plain, cautious, atol=1e-6)


def test_cautious_decay_is_where_the_update_makes_weights_smaller(forge_run_context: Any) -> None:
    run, shape = on_cpu(forge_run_context, bf16_is_native=False), (12, 20)
    moved = trained_by(Muon, run, shape, steps=1, weight_decay=0.0) - start(shape)
    decayed = trained_by(Muon, run, shape, steps=1, weight_decay=0.5, cautious_decay=True)
    expected = start(shape) * torch.where(moved * start(shape) < 0, 1 - 0.02 * 0.5, 1.0) + moved
    torch.testing.assert_close(decayed, expected)


def test_normalised_rows_become_even_and_the_update_keeps_its_size(forge_run_context: Any) -> None:
    run, shape = on_cpu(forge_run_context, bf16_is_native=False), (20, 12)
    plain = trained_by(Muon, run, shape, steps=1, weight_decay=0.0) - start(shape)
    even = trained_by(Muon, run, shape, steps=1, weight_decay=0.0, normalised_rows=True) - start(
        shape
    )
    torch.testing.assert_close(even.norm(), plain.norm())
    sizes = even.norm(dim=1)
    assert sizes.std() / sizes.mean() < 1e-3 < plain.norm(dim=1).std() / plain.norm(dim=1).mean()


def test_momentum_warms_up_and_continues_from_a_loaded_state(forge_run_context: Any) -> None:
    run, options = forge_run_context, {**MUON, "momentum_warmup_steps": 4}
    whole, parts = (torch.nn.Parameter(start((12, 20))) for _ in range(2))
    plugin = make_component(Muon, options)
    steps_of(whole, plugin.forge_build_optimizer(run=run, parameters=[("w", whole)]), steps=6)
    first = plugin.forge_build_optimizer(run=run, parameters=[("w", parts)])
    generator = steps_of(parts, first)
    second = plugin.forge_build_optimizer(run=run, parameters=[("w", parts)])
    second.load_state_dict(first.state_dict())
    steps_of(parts, second, generator=generator)
    assert torch.equal(whole, parts)
    plain = trained_by(Muon, run, (12, 20), steps=6)
    assert not torch.equal(whole, plain)


def start(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def steps_of(
    weight: torch.nn.Parameter,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 3,
    generator: torch.Generator | None = None,
) -> torch.Generator:
    generator = generator or torch.Generator().manual_seed(4)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return generator


def trained_by(
    component: type, run: Any, shape: tuple[int, int], *, steps: int = 3, **options: Any
) -> torch.Tensor:
    weight = torch.nn.Parameter(start(shape))
    plugin = make_component(component, {**MUON, **options})
    built = plugin.forge_build_optimizer(run=run, parameters=[("w", weight)])
    steps_of(weight, built, steps=steps)
    return weight.detach()


def torch_muon(
    shape: tuple[int, int], *, adjust_lr_fn: str = "match_rms_adamw", nesterov: bool
) -> torch.Tensor:
    weight = torch.nn.Parameter(start(shape))
    options: dict[str, Any] = {**MUON, "adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov}
    steps_of(weight, torch.optim.Muon([weight], **options))
    return weight.detach()
