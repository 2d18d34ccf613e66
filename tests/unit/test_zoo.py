"""Models by name: what is said of them is true, and one word puts each into a recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from llmforge.cli.models import app
from llmforge.cli.options import recipe_overrides
from llmforge.errors import RecipeError, UsageError
from llmforge.recipe import load_recipe
from llmforge_plugins._zoo import ZOO, ZooModel, presets_of

NAMES = [
    *("gpt2-small", "gpt2-medium", "dialogpt-small", "dialogpt-medium"),
    *("codet5-small", "codet5-base", "codebert-base", "t5-small", "t5-base"),
]
CUSTOM = ("custom-nano", "custom-tiny", "custom-small", "custom-medium", "custom-large")

AUTO = {
    "hf-causal": "AutoModelForCausalLM",
    "hf-seq2seq": "AutoModelForSeq2SeqLM",
    "hf-encoder": "AutoModelForMaskedLM",
}


def published_config(model: ZooModel) -> Any:
    """Return the published configuration, as far as it decides about parameters."""
    if model.component == "hf-causal":
        return transformers.GPT2Config(
            vocab_size=model.vocab_size,
            n_positions=model.context,
            n_embd=model.width,
            n_layer=model.layers,
            n_head=model.heads,
        )
    if model.component == "hf-encoder":  # RoBERTa has two positions more than it can use
        return transformers.RobertaConfig(
            vocab_size=model.vocab_size, max_position_embeddings=model.context + 2,
            type_vocab_size=1, hidden_size=model.width, num_hidden_layers=model.layers,
            num_attention_heads=model.heads, intermediate_size=4 * model.width,
        )  # fmt: skip
    return transformers.T5Config(
        vocab_size=model.vocab_size,
        d_model=model.width,
        d_ff=4 * model.width,
        num_layers=model.layers,
        num_heads=model.heads,
    )


def test_the_zoo_has_every_name() -> None:
    assert list(ZOO) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_published_configuration(name: str) -> None:
    model = ZOO[name]
    auto = getattr(transformers, AUTO[model.component])
    with torch.device("meta"):
        made = auto.from_config(published_config(model))
    assert sum(parameter.numel() for parameter in made.parameters()) == model.parameters


@pytest.mark.parametrize("name", NAMES)
def test_every_name_says_what_one_has_to_know(name: str) -> None:
    model = ZOO[name]
    facts = presets_of(model.component)[name]
    assert {"parameters", "layers", "width", "tokenizer", "licence", "source"} <= set(facts)
    assert facts["settings"] == {
        "model.name": model.component,
        f"model.{model.component}.path": name,
        "tokenizer.name": "from-model",
    }


def chosen(recipe: str, name: str, **changes: Any) -> Mapping[str, Any]:
    return load_recipe(recipe, overrides=recipe_overrides(recipe, preset=name, **changes)).tables


def objective(tables: Mapping[str, Any]) -> str:
    """Return the objective of a recipe; the one that needs no table is next_token."""
    return str(tables.get("objective", {}).get("name", "next_token"))


OBJECTIVES = {"hf-causal": "next_token", "hf-seq2seq": "seq2seq"}


@pytest.mark.parametrize("name", [name for name in NAMES if ZOO[name].component != "hf-encoder"])
@pytest.mark.parametrize("recipe", ["alpaca_custom_tiny", "alpaca_gpt2"])
def test_one_word_puts_a_pre_trained_model_into_a_recipe(recipe: str, name: str) -> None:
    tables = chosen(recipe, name)
    component = ZOO[name].component
    assert tables["model"]["name"] == component
    assert tables["model"][component]["path"] == name
    assert tables["tokenizer"]["name"] == "from-model"
    assert objective(tables) == OBJECTIVES[component]


def test_an_encoder_is_for_recipes_that_generate_nothing() -> None:
    with pytest.raises(RecipeError, match="trained for 'mlm' does not write"):
        chosen("alpaca_gpt2", "codebert-base")
    tables = chosen("alpaca_gpt2", "codebert-base", assignments=["generation.prompts=[]"])
    assert (tables["model"]["name"], objective(tables)) == ("hf-encoder", "mlm")
    assert objective(chosen("codebert_classify", "codebert-base")) == "classify"


def test_one_word_changes_the_objective_back() -> None:
    assert objective(chosen("codebert_mlm", "gpt2-small")) == "next_token"


@pytest.mark.parametrize("name", [*CUSTOM, "neox-1.2b"])
@pytest.mark.parametrize("recipe", ["alpaca_custom_tiny", "alpaca_gpt2"])
def test_one_word_puts_a_model_from_scratch_into_a_recipe(recipe: str, name: str) -> None:
    tables = chosen(recipe, name)
    assert tables["model"]["name"] == "transformer"
    assert tables["model"]["transformer"]["preset"] == name.removeprefix("custom-")
    assert tables["tokenizer"]["name"] == "bpe"


def test_a_preset_of_the_recipes_own_model_goes_by_its_short_name_too() -> None:
    assert chosen("wikitext_tiny", "small")["model"]["transformer"]["preset"] == "small"
    with pytest.raises(UsageError, match="there is no model 'small'"):
        chosen("alpaca_gpt2", "small")


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no model 'dialogpt-smal'") as caught:
        chosen("wikitext_tiny", "dialogpt-smal")
    assert caught.value.remedy == "did you mean 'dialogpt-small'?"


def listed(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_list_and_show_have_every_name() -> None:
    rows = {row["name"]: row for row in listed("list")}
    installed = {row["model"] for row in rows.values()}
    wanted = {name for name in NAMES if ZOO[name].component in installed}
    assert {*wanted, *CUSTOM, "neox-1.2b"} <= set(rows)
    assert rows["custom-tiny"]["preset"] == "tiny"
    shown = listed("show", "dialogpt-small")
    assert (shown["parameters"], shown["licence"], shown["model"]) == (
        124_439_808, "MIT", "hf-causal",
    )  # fmt: skip
    text = CliRunner().invoke(app, ["show", "gpt2-small"]).output
    assert "124,439,808" in text
    assert 'model.hf-causal.path = "gpt2-small"' in text
    for name, objective in (("codet5-base", "seq2seq"), ("codebert-base", "mlm")):
        assert listed("show", name)["settings"]["objective.name"] == objective


def test_models_are_named_without_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from llmforge.cli.options import recipe_overrides\n"
        "from llmforge.cli.model_names import all_models\n"
        "from llmforge.recipe import load_recipe\n"
        "found = recipe_overrides('alpaca_gpt2', preset='dialogpt-medium')\n"
        "load_recipe('alpaca_gpt2', overrides=found); list(all_models(vocab_size=9))\n"
        "print({'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
