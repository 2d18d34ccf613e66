"""The model card of an exported folder: metadata as the hub reads it, and code that runs."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_parts import own_tables, rows, text_data, train, untrained
from hf_models import save, save_tokenizer
from huggingface_hub import ModelCard, parse_eval_result_entries
from test_export_folder import LORA, pretrained

from llmforge.deploy.source import files_of
from llmforge.export import export_folder
from llmforge.export.model_card import CardFacts, write_card
from llmforge.export.run_facts import read_facts
from llmforge.rundir import RunDirectory


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def run_code(folder: Path) -> str:
    """Run what the card shows in a fresh process, in its folder."""
    (code,) = re.findall(r"```python\n(.*?)```", card_of(folder).text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_tells_what_is_known_and_nothing_else(tmp_path: Path) -> None:
    checkpoint = train(tmp_path / "run", own_tables(tmp_path, {}))
    export_folder(checkpoint, tmp_path / "out")
    card = card_of(tmp_path / "out")
    told = card.data.to_dict()
    assert told["library_name"] == "transformers"
    assert told["pipeline_tag"] == "text-generation"
    assert "license" not in told and "base_model" not in told and "datasets" not in told
    (result,) = told["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values.keys() == {"loss", "perplexity", "bits_per_byte"}
    for part in (
        "# tiny",
        "(`LlamaForCausalLM`), trained from random weights",
        "tokens seen | 1,152",
        "adamw, learning rate 0.005",
        "![Loss by optimizer step](curves.png)",
        "No licence is given",
    ):
        assert part in card.text, part
    assert f"{values['loss']:.4f}" in card.text
    assert run_code(tmp_path / "out").startswith("The history of")


def test_benchmarks_are_in_the_card_and_those_of_the_hub_in_its_form(tmp_path: Path) -> None:
    checkpoint = untrained(tmp_path / "run", {})
    of_it = {"checkpoint": checkpoint.path.name, "step": checkpoint.step, "examples": 9}
    score = {"exact_match,strict-match": 0.125, "exact_match,flexible-extract": 0.5}
    other = {"checkpoint": "step-00000099", "task": "other", "metrics": {"acc": 1.0}}
    results = [
        {**of_it, "task": "gsm8k", "shots": 5, "limit": None, "metrics": score},
        {**of_it, "task": "quiz", "shots": 0, "limit": None, "metrics": {"acc": 0.75}},
        {**of_it, "task": "words", "shots": 0, "limit": 2, "metrics": {"acc": 0.625}},
        {**of_it, "shots": 0, "limit": None, **other},
    ]
    RunDirectory(tmp_path / "run").benchmarks.write_text(json.dumps(results), encoding="utf-8")
    export_folder(checkpoint, tmp_path / "out")
    text = card_of(tmp_path / "out").text
    assert "| gsm8k | 5 | exact_match,strict-match | 0.1250 |" in text
    assert "| quiz | 0 | acc | 0.7500 |" in text
    assert "words" not in text and "other" not in text
    (file,) = (tmp_path / "out" / ".eval_results").iterdir()
    assert file.name == "gsm8k_5_shot.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 12.5)
    assert entry.notes == "5-shot, lm-evaluation-harness"
    assert ".eval_results/gsm8k_5_shot.yaml" in files_of(tmp_path / "out")


def test_an_adapter_names_its_base_and_its_use(tmp_path: Path) -> None:
    tables: dict[str, Any] = pretrained(tmp_path, "roberta", "hf-encoder", "classify")
    checkpoint = train(tmp_path / "run", tables | LORA)
    export_folder(checkpoint, tmp_path / "out")
    told = card_of(tmp_path / "out").data.to_dict()
    assert (told["library_name"], told["pipeline_tag"]) == ("peft", "text-classification")
    assert "lora" in told["tags"]
    assert run_code(tmp_path / "out").strip() in ("long", "short")


def test_a_model_that_answers_messages_is_asked_with_its_template(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", "gpt2", vocab_size=283, n_positions=128)
    save_tokenizer(folder)
    path = rows(tmp_path, pairs=True)
    path.write_text(path.read_text().replace("source", "instruction").replace("target", "output"))
    tables = {
        "model": {"name": "hf-causal", "hf-causal": {"path": str(folder)}},
        "tokenizer": {"name": "from-model"},
        "data": {"name": "instruct", "instruct": {"path": str(path)}},
    }
    checkpoint = train(tmp_path / "run", tables)
    export_folder(checkpoint, tmp_path / "out")
    card = card_of(tmp_path / "out")
    assert "conversational" in card.data.to_dict()["tags"]
    assert "It answers messages" in card.text
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == (
        checkpoint.path / "tokenizer" / "chat_template.jinja"
    ).read_text()
    run_code(tmp_path / "out")


def test_a_published_base_is_linked_and_its_licence_named(tmp_path: Path) -> None:
    checkpoint = untrained(tmp_path / "run", {})
    facts = CardFacts(
        run=read_facts(checkpoint),
        layout="hf",
        alone=True,
        dtype="fp32",
        parameters=124_734_720,
        trained=294_912,
        form="next_token",
        model="hf-causal",
        base={"repository": "openai-community/gpt2", "commit": "c" * 40},
        adapter="lora",
        chat=False,
        has_tokenizer=True,
        licence=None,
        labels=(),
        context=1024,
    )
    write_card(tmp_path, facts)
    card = card_of(tmp_path)
    told = card.data.to_dict()
    assert (told["license"], told["base_model"]) == ("mit", "openai-community/gpt2")
    assert (told["library_name"], told["base_model_relation"]) == ("peft", "adapter")
    assert (
        "The adapter (lora) of 294,912 parameters for "
        "[openai-community/gpt2](https://huggingface.co/openai-community/gpt2) at commit "
        "`cccccccccccc`."
    ) in card.text
    assert 'AutoModelForCausalLM.from_pretrained("openai-community/gpt2")' in card.text
    assert "No licence" not in card.text
    whole = dataclasses.replace(facts, alone=False, adapter=None)
    write_card(tmp_path, whole)
    assert card_of(tmp_path).data.to_dict()["base_model_relation"] == "finetune"


@pytest.mark.parametrize("layout", ["safetensors", "gguf"])
def test_other_layouts_say_how_they_are_read(tmp_path: Path, layout: Any) -> None:
    checkpoint = train(tmp_path / "run", own_tables(tmp_path, {}) | text_data(tmp_path / "text"))
    export_folder(checkpoint, tmp_path / "out", layout=layout)
    card = card_of(tmp_path / "out")
    if layout == "gguf":
        assert 'llama-cli -m model.gguf -p "The history of"' in card.text
        assert card.data.to_dict()["library_name"] == "gguf"
    else:
        assert "blocks.0.attention.qkv.weight" in run_code(tmp_path / "out")
