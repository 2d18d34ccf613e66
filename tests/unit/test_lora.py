"""The adapter lora: what it trains, what it refuses, and that it is peft's to the last bit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hf_models import CONTEXT, VOCABULARY, built, config, reference, save
from torch import nn

from llmforge.errors import RecipeError
from llmforge.interfaces import Adapter
from llmforge.plugins import load
from llmforge.recipe import identity, load_recipe
from llmforge.testing import TinyTokenizer, make_component

SEED = 3


def lora(**options: Any) -> Adapter:
    component = make_component(load("adapter", "lora"), {"r": 4, **options}, name="lora")
    adapter: Adapter = component.forge_build_adapter()  # type: ignore[attr-defined]
    return adapter


def adapted(model: Any, **options: Any) -> Any:
    torch.manual_seed(SEED)
    lora(**options).apply(model)
    return model


def transformer(**options: Any) -> Any:
    sizes = {"layers": 2, "width": 32, "heads": 2, "context": 16, **options}
    component = make_component(load("model", "transformer"), sizes)
    torch.manual_seed(1)
    return component.forge_build_model(run=None, tokenizer=TinyTokenizer())  # type: ignore[attr-defined]


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    return {kind: save(base / kind, kind) for kind in ("gpt2", "llama")}


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(9)
    for _ in range(10):
        ids = torch.randint(VOCABULARY, (4, CONTEXT + 1), generator=generator)
        yield ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def steps(model: nn.Module, loss: Any) -> list[float]:
    """Train what requires a gradient for ten steps; return the losses."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for inputs, targets in batches():
        mean = loss(inputs, targets)
        mean.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.item())
    return losses


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        (
            {"targets": "all-linear", "rslora": True, "alpha": 8.0},
            {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 8.0},
        ),
        ({"dora": True}, {"use_dora": True}),
    ],
    ids=["auto", "all-linear", "dora"],
)
def test_ten_steps_are_those_of_peft_by_hand(
    tmp_path: Path,
    folders: dict[str, Path],
    kind: str,
    options: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    mine = adapted(built(tmp_path, folders[kind]), **options).train()
    plain = reference(folders[kind])
    torch.manual_seed(SEED)
    hand = peft.get_peft_model(plain, peft.LoraConfig(**{"r": 4, "lora_alpha": 32, **theirs}))
    expected = {name.removeprefix("base_model.model."): p for name, p in hand.named_parameters()}
    assert {name: p.requires_grad for name, p in mine.named_parameters()} == {
        name: p.requires_grad for name, p in expected.items()
    }
    for name, parameter in mine.named_parameters():
        assert torch.equal(parameter, expected[name]), name

    def my_loss(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        total, count = mine.loss({"inputs": inputs, "targets": targets})
        return total / count

    def their_loss(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        logits = hand(input_ids=inputs).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    losses = steps(mine, my_loss)
    assert losses == pytest.approx(steps(hand, their_loss), rel=2e-5)
    assert losses[-1] != losses[0]


def learn(model: Any) -> None:
    """Take a few steps of what trains."""
    generator = torch.Generator().manual_seed(9)
    ids = torch.randint(200, (4, 17), generator=generator)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(3):
        model.loss({"inputs": ids[:, :-1], "targets": ids[:, 1:]})[0].backward()
        optimizer.step()
        optimizer.zero_grad()


def test_targets_of_the_own_model_are_all_linear_maps_of_its_blocks() -> None:
    names = trained(adapted(transformer()))
    targets = {name.partition(".lora_")[0] for name in names}
    assert targets == {
        f"blocks.{layer}.{part}"
        for layer in range(2)
        for part in ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    }


def test_the_own_model_generates_with_a_cache_as_without() -> None:
    model = adapted(transformer(), init="gaussian").train()
    learn(model)
    model.eval()
    ids = torch.randint(200, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, cache=model.new_cache(2, 9)), model(ids))


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "pissa", "olora"])
def test_every_start_is_the_same_twice_and_in_outline(init: str) -> None:
    first, second = (adapted(transformer(), init=init) for _ in range(2))
    for (name, mine), (_, theirs) in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    with torch.device("meta"):
        outline = adapted(transformer(), init=init)
    assert trained(outline) == trained(first)


@pytest.mark.parametrize("tied", [True, False])
def test_modules_to_save_train_whole_and_are_merged_back(tied: bool) -> None:
    module = "embedding" if tied else "head"
    adapter = lora(modules_to_save=[module])
    model = transformer(tie_embeddings=tied)
    names = [name for name, _ in model.named_parameters()]
    before = dict(model.named_parameters())[f"{module}.weight"].detach().clone()
    adapter.apply(model)
    assert f"{module}.modules_to_save.default.weight" in trained(model)
    learn(model)
    expected = model(torch.arange(9)[None]).detach()
    adapter.merge(model)
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(model(torch.arange(9)[None]), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(dict(model.named_parameters())[f"{module}.weight"], before)


def test_the_new_head_of_a_classifier_trains_too() -> None:
    model = transformers.AutoModelForSequenceClassification.from_config(config("roberta"))
    names = trained(adapted(model))
    assert any(name.startswith("classifier.modules_to_save") for name in names)
    assert all(".lora_" in name or name.startswith("classifier.") for name in names)


@pytest.mark.parametrize("own", [True, False], ids=["transformer", "gpt2"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["qvk", "c_atn"]}, r"lora\.targets: '(qvk|c_atn)' matches no module"),
        ({"targets": ["head", "lm_head"]}, r"lora\.targets: '(head|lm_head)' (is|matches) no"),
        ({"modules_to_save": ["none"]}, r"lora\.modules_to_save: 'none' matches no module"),
    ],
)
def test_a_name_that_cannot_be_adapted_is_refused(
    tmp_path: Path,
    folders: dict[str, Path],
    own: bool,
    options: dict[str, Any],
    message: str,
) -> None:
    model = transformer(tie_embeddings=False) if own else built(tmp_path, folders["gpt2"])
    if "targets" in options:
        options = {"targets": [options["targets"][0 if own else 1]]}
    with pytest.raises(RecipeError, match=message):
        lora(**options).apply(model)


def test_an_output_that_is_read_by_itself_is_not_adapted() -> None:
    with pytest.raises(RecipeError, match="modules_to_save trains others whole"):
        lora(targets=["head"]).apply(transformer(tie_embeddings=False))


def test_an_architecture_that_peft_has_no_targets_for_says_what_to_do() -> None:
    model = transformers.AutoModelForCausalLM.from_config(config("cohere"))
    with pytest.raises(RecipeError, match=r'peft knows no targets .*targets = "all-linear"'):
        lora().apply(model)


@pytest.mark.parametrize(
    "options", [{"targets": []}, {"r": 3, "init": "orthogonal"}, {"init": "eva"}, {"r": 0}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        load("adapter", "lora").Options(**options)


ADAPTED = {"adapter.name": "lora", "adapter.lora.targets": ["qkv"]}


def test_a_recipe_may_do_without_and_is_then_the_run_it_was() -> None:
    plain = load_recipe("wikitext_tiny")
    assert plain.selections["adapter"] == ()
    assert "adapter" not in plain.tables
    assert not [key for key in identity(plain).keys if key.startswith("adapter")]
    keys = identity(load_recipe("wikitext_tiny", overrides=ADAPTED)).keys
    assert keys["adapter.name"] == "lora"
    assert keys["adapter.lora.targets"] == ["qkv"]


def test_options_without_a_name_are_no_adapter_that_is_silently_left_out() -> None:
    with pytest.raises(RecipeError, match=r"adapter\.name: a recipe must name its adapter"):
        load_recipe("wikitext_tiny", overrides={"adapter.lora.r": 8})


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    (problem,) = make_component(load("adapter", "lora"), name="lora").missing_packages()
    assert "adapter 'lora' needs the peft package" in str(problem)
    assert "pip install" in problem.remedy
