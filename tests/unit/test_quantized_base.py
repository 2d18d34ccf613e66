"""Bases in 8 and 4 bits: what of a model is quantised, how close it stays, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import CONTEXT, VOCABULARY, built, component, model_run, save

from llmforge.interfaces import weight_count
from llmforge.plugins import load
from llmforge.testing import make_component

WIDE = {"gpt2": {"n_embd": 64}, "llama": {"hidden_size": 64, "intermediate_size": 128}}
CLOSE = {"8bit": 0.02, "4bit": 0.3}
"""Largest share of the logits' spread that quantising may change them by, on average."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    return {kind: save(base / kind, kind, **changes) for kind, changes in WIDE.items()}


def ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(VOCABULARY, (2, CONTEXT), generator=generator)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_logits_stay_close_and_every_weight_of_the_adapter_gets_a_gradient(
    tmp_path: Path, folders: dict[str, Path], kind: str, bits: str
) -> None:
    plain, model = built(tmp_path, folders[kind]), built(tmp_path, folders[kind], quantize=bits)
    with torch.no_grad():
        expected, found = plain(ids()), model(ids())
    error = (found - expected).abs().mean() / expected.std()
    assert 0 < error < CLOSE[bits]
    lora = make_component(load("adapter", "lora"), {"r": 4, "targets": "all-linear"}, name="lora")
    lora.forge_build_adapter().apply(model)  # type: ignore[attr-defined]
    total, _ = model.train().loss({"inputs": ids(), "targets": ids()})
    total.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert all(gradient is not None for gradient in trained.values())
    assert any(gradient.abs().sum() > 0 for gradient in trained.values())


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_only_the_maps_of_the_blocks_are_packed_and_all_weights_count(
    tmp_path: Path, folders: dict[str, Path], bits: str
) -> None:
    plain, model = built(tmp_path, folders["gpt2"]), built(tmp_path, folders["gpt2"], quantize=bits)
    packed = {name for name, p in model.named_parameters() if not p.is_floating_point()}
    assert {name.split(".")[-2] for name in packed} == {"c_attn", "c_proj", "c_fc"}
    assert all(name.startswith("transformer.h.") for name in packed)
    assert model.state_dict().keys() == plain.state_dict().keys()
    counts = [sum(map(weight_count, found.parameters())) for found in (plain, model)]
    assert counts[0] == counts[1]
    maps = [dict(found.named_parameters()) for found in (plain, model)]
    smaller = 4 if bits == "8bit" else 8
    for name in packed:
        assert maps[0][name].nbytes == smaller * maps[1][name].nbytes


def test_quantising_twice_gives_the_same_bits(tmp_path: Path, folders: dict[str, Path]) -> None:
    models = [built(tmp_path, folders["llama"], quantize="4bit") for _ in range(2)]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def problems(directory: Path, folder: Path, tables: dict[str, Any], **options: Any) -> list[str]:
    found = component(folder, context=CONTEXT, quantize="4bit", **options)
    run = model_run(directory, folder)
    run = dataclasses.replace(run, config={**run.config, **tables})
    return [str(problem) for problem in found.forge_preflight(run=run)]  # type: ignore[attr-defined]


def test_what_cannot_be_is_refused_before_training(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    adapter = {"adapter": {"name": "lora"}}
    folder = folders["gpt2"]
    assert problems(tmp_path, folder, adapter) == []
    assert problems(tmp_path, folder, {}) == [
        "model.hf-causal.quantize: quantised weights do not train, and there is no adapter beside "
        'them (set adapter.name = "lora")'
    ]
    (message,) = problems(tmp_path, folder, {**adapter, "backend": {"name": "fsdp"}})
    assert "backend 'fsdp' cannot shard quantised weights" in message
    (message,) = problems(tmp_path, folder, adapter, from_scratch=True)
    assert "random weights that never train are of no use" in message


def test_the_missing_package_is_named(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "llmforge_plugins.models._hf_options.find_spec",
        lambda name: None if name == "bitsandbytes" else real(name),
    )
    (problem,) = component(folders["gpt2"], quantize="8bit").missing_packages()
    assert problem.key == "model.hf-causal.quantize"
    assert "bitsandbytes" in problem.message
    assert "pip install" in problem.remedy
    assert component(folders["gpt2"]).missing_packages() == []
