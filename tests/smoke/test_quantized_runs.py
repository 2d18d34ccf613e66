"""LoRA over a base in 4 bits, from the command line: resumed after a kill, used and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forge_process import Workplace, saving
from hf_models import save, save_tokenizer
from safetensors.torch import load_file
from test_lora_runs import ADAPTER, SHORT
from test_pretrained import FINE_TUNE

QUANTIZED = FINE_TUNE.replace('path = "gpt2"', 'path = "gpt2"\nquantize = "4bit"') + ADAPTER


def quantized(path: Path) -> Workplace:
    found = Workplace(path, SHORT, recipe=QUANTIZED)
    save(path / "gpt2", "gpt2", vocab_size=283, n_positions=128, n_embd=64, resid_pdrop=0.1)
    save_tokenizer(path / "gpt2")
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = quantized(tmp_path_factory.mktemp("quantized") / "place")
    found.train_here()
    return found


def test_killed_it_resumes_to_the_same_bits(tmp_path: Path, trained: Workplace) -> None:
    killed = quantized(tmp_path / "place")
    process = killed.start()
    assert process.wait_for(saving)
    process.kill()
    killed.train_here()
    assert killed.result() == trained.result()
    names = load_file(trained.checkpoints[-1] / "model.safetensors")
    assert all(".lora_" in name for name in names)


def test_it_is_evaluated_and_generates_over_the_quantised_base(trained: Workplace) -> None:
    evaluated = trained.forge_here("evaluate", "tiny@last", "--json")
    measured = json.loads(evaluated[evaluated.index("{") :])
    assert measured["val/loss"] == pytest.approx(trained.rows[-1]["val/loss"], rel=1e-5)
    output = trained.forge_here(
        "generate", "tiny@last", "--prompt", "the river", "--max-new-tokens", "4", "--json"
    )
    (answer,) = json.loads(output[output.index("{") :])["completions"]
    assert answer["tokens"] == 4


def test_the_adapter_is_exported_alone_and_not_merged_into_rounded_weights(
    tmp_path: Path, trained: Workplace
) -> None:
    trained.forge_here("export", "tiny@last", "--to", str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    output = trained.forge_here(
        "export", "tiny@last", "--to", str(tmp_path / "merged"), "--merge", expect=1
    )
    assert "the base is in 8 or 4 bits" in output
    assert not (tmp_path / "merged").exists()


def test_without_an_adapter_nothing_starts(trained: Workplace) -> None:
    output = trained.forge_here(
        "train", "recipe.toml", "--set", "adapter.name=none", "--set", "run.id=other", expect=2
    )
    assert "Traceback" not in output
