"""``init_from``: the transformer with published weights, against transformers on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from export_parts import OWN, text_data, train, untrained
from hf_models import config, edit, far_from_uniform, save_tokenizer

import llmforge
from llmforge.errors import ForgeError, RecipeError
from llmforge.export import export_folder
from llmforge.generation import load_checkpoint, locate
from llmforge.plugins import load
from llmforge.recipe import load_recipe
from llmforge.testing import TinyTokenizer, make_component, run_context

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rms_norm_eps": 1e-6}),
    "llama-tied-biases": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-wide-heads": ("llama", {"head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "gpt2": ("gpt2", {}),
    "gpt2-exact-gelu": ("gpt2", {"activation_function": "gelu", "n_inner": 96}),
    "gpt-neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "gpt-neox-one-after-the-other": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt-neox-without-biases": ("gpt_neox", {"attention_bias": False, "hidden_act": "gelu_new"}),
}


def saved(folder: Path, name: str) -> Any:
    """Save a small model with all its weights far from their start; return it."""
    kind, changes = KINDS[name]
    torch.manual_seed(6)
    model = transformers.AutoModelForCausalLM.from_config(config(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in far_from_uniform(model).parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def built(tmp_path: Path, folder: Path, **options: Any) -> Any:
    plugin: Any = make_component(
        load("model", "transformer"), {"init_from": str(folder), **options}, name="transformer"
    )
    run = run_context(tmp_path, context=plugin.options.context)
    assert plugin.forge_preflight(run) == []
    return plugin.forge_build_model(run, TinyTokenizer()).eval()


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    theirs = saved(tmp_path / "base", name)
    model = built(tmp_path, tmp_path / "base")
    assert model.context == 32
    ids = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(ids).logits
        difference = float((model(ids) - expected).abs().max())
    print(f"{name}: {difference:.1e} of {float(expected.abs().max()):.1f}")
    assert difference < 2e-5 * float(expected.abs().max())
    model.save_hugging_face(tmp_path / "base", tokenizer=TinyTokenizer(), max_shard_size=10**9)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("name", OWN)
def test_there_and_back_gives_equal_bits(tmp_path: Path, name: str) -> None:
    export_folder(untrained(tmp_path / "run", OWN[name]), tmp_path / "first")
    model = built(tmp_path, tmp_path / "first")
    (tmp_path / "second").mkdir()
    model.save_hugging_face(tmp_path / "second", tokenizer=TinyTokenizer(), max_shard_size=10**9)
    for file in ("config.json", "model.safetensors"):
        first, second = ((tmp_path / each / file).read_bytes() for each in ("first", "second"))
        if file == "config.json":
            ids = ("bos_token_id", "eos_token_id", "pad_token_id")
            first, second = (
                {key: value for key, value in json.loads(text).items() if key not in ids}
                for text in (first, second)
            )
        assert first == second


def test_a_shorter_context_cuts_learned_positions_and_a_larger_vocabulary_grows(
    tmp_path: Path,
) -> None:
    theirs = saved(tmp_path / "base", "gpt2")
    plugin: Any = make_component(
        load("model", "transformer"),
        {"init_from": str(tmp_path / "base"), "context": 8},
        name="transformer",
    )

    class Larger(TinyTokenizer):
        vocab_size = 300

    told: list[str] = []
    run = run_context(tmp_path, context=8, notice=told.append)
    model = plugin.forge_build_model(run, Larger()).eval()
    assert model.positions.weight.shape == (8, 32)
    ids = torch.randint(257, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model(ids)
        torch.testing.assert_close(logits[..., :257], theirs(ids).logits, rtol=1e-5, atol=1e-5)
    mean = theirs.transformer.wte.weight.detach().mean(0)
    torch.testing.assert_close(model.embedding.weight[299].detach(), mean)
    assert ["it grew" in text for text in told] == [True]


@pytest.mark.parametrize(
    ("name", "options", "changes", "message"),
    [
        ("llama", {"layers": 3}, {}, "layers: 3 contradicts the weights of init_from: 2"),
        ("llama", {"norm": "layernorm"}, {}, 'norm: "layernorm" contradicts .*: "rmsnorm"'),
        ("llama", {"context": 64}, {}, "more than the model's maximum of 32"),
        ("llama", {}, {"model_type": "mamba"}, "it is of the type 'mamba', and the model"),
        ("llama", {}, {"mlp_bias": True}, "attention_bias = false beside mlp_bias = true"),
        (
            "llama",
            {},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "its rotary positions are scaled",
        ),
        ("qwen2", {}, {"use_sliding_window": True}, "use_sliding_window is true"),
    ],
)
def test_what_it_cannot_be_is_said_before_anything_is_read(
    tmp_path: Path, name: str, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    saved(tmp_path / "base", name)
    edit(tmp_path / "base" / "config.json", **changes)
    plugin: Any = make_component(
        load("model", "transformer"),
        {"init_from": str(tmp_path / "base"), **options},
        name="transformer",
    )
    (problem,) = plugin.forge_preflight(run_context(tmp_path, context=plugin.options.context))
    assert problem.key.startswith("model.transformer.")
    import re

    assert re.search(message, f"{problem.key}: {problem.message}")
    with pytest.raises(ForgeError), torch.device("meta"):  # as forge plan does
        plugin.forge_build_model(run_context(tmp_path), TinyTokenizer())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "base", "llama")
    saved(tmp_path / "other", "gpt-neox")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "base")
    with pytest.raises(ForgeError, match=r"not those of the model in its config\.json; missing"):
        built(tmp_path, tmp_path / "base")
    with pytest.raises(RecipeError, match="preset and init_from both say"):
        (tmp_path / "recipe.toml").write_text(
            f'[model]\nname = "transformer"\n[model.transformer]\npreset = "tiny"\n'
            f'init_from = "{tmp_path / "base"}"\n'
            '[data]\nname = "wikitext"\n[train]\nmax_steps = 1\n'
        )
        load_recipe(tmp_path / "recipe.toml")


LORA = {"adapter": {"name": "lora", "lora": {"r": 2}}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_run_starts_from_it_resumes_without_it_and_is_exported(
    tmp_path: Path, adapter: bool
) -> None:
    saved(tmp_path / "base", "qwen3")
    save_tokenizer(tmp_path / "base", vocab_size=283)
    tables: dict[str, Any] = {
        "model": {
            "name": "transformer",
            "transformer": {"init_from": str(tmp_path / "base"), "context": 24},
        },
        "data": text_data(tmp_path / "text")["data"],
        "tokenizer": {"name": "from-model"},
        "train": {"max_steps": 6, "batch_size": 4, "device": "cpu", "stop_at": 3},
        "checkpoint": {"every": 3},
        **(LORA if adapter else {}),
    }
    train(tmp_path / "whole", tables | {"train": {**tables["train"], "stop_at": 6}})
    train(tmp_path / "stopped", tables)
    record = json.loads((tmp_path / "stopped" / "runs" / "tiny" / "run.json").read_text())
    assert record["resolved"]["model"] == {"folder": str(tmp_path / "base")}
    if not adapter:  # frozen weights are in no checkpoint
        (tmp_path / "base").rename(tmp_path / "gone")
    ended = llmforge.train(tmp_path / "stopped" / "recipe.toml", overrides=["train.stop_at=6"])
    assert ended.state == "completed"
    first, second = (
        locate("tiny@last", root=tmp_path / name / "runs") for name in ("whole", "stopped")
    )
    assert first.manifest.files["model.safetensors"] == second.manifest.files["model.safetensors"]
    export_folder(second, tmp_path / "out", merge=adapter)
    own = load_checkpoint(second, device="cpu", dtype="fp32").model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(257, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(own(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_planning_reads_no_weights(tmp_path: Path) -> None:
    saved(tmp_path / "base", "gpt-neox")
    (tmp_path / "base" / "model.safetensors").unlink()
    plugin: Any = make_component(
        load("model", "transformer"), {"init_from": str(tmp_path / "base")}, name="transformer"
    )
    with torch.device("meta"):
        run = run_context(tmp_path, context=plugin.options.context)
        model = plugin.forge_build_model(run, TinyTokenizer())
    assert all(parameter.is_meta for parameter in model.parameters())
