"""LoRA over a pre-trained folder, from the command line: small checkpoints that know their base."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forge_process import Workplace, saving
from hf_models import save, save_tokenizer
from safetensors.torch import load_file, save_file
from test_pretrained import FINE_TUNE

ADAPTER = """
[adapter]
name = "lora"
[adapter.lora]
r = 4
dropout = 0.1
"""
SHORT = {"train.max_steps": "8", "eval.every": "4", "checkpoint.every": "2"}


def place(path: Path) -> Workplace:
    found = Workplace(path, SHORT, recipe=FINE_TUNE + ADAPTER)
    save(path / "gpt2", "gpt2", vocab_size=283, n_positions=128, n_embd=64, resid_pdrop=0.1)
    save_tokenizer(path / "gpt2")
    return found


def change_base(found: Workplace) -> None:
    """Change one number of the pre-trained weights a little."""
    path = found.path / "gpt2" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"][0] += 1e-6
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = place(tmp_path_factory.mktemp("lora") / "place")
    output = found.train_here()
    assert re.search(r"adapter lora: 2,048 of 1\d\d,\d{3} parameters train \(1\.\d\d %\)", output)
    return found


def test_a_checkpoint_has_what_trains_and_names_the_rest(trained: Workplace) -> None:
    newest = trained.checkpoints[-1]
    tensors = load_file(newest / "model.safetensors")
    assert {name.partition(".lora_")[1] for name in tensors} == {".lora_"}
    assert sum(tensor.numel() for tensor in tensors.values()) == 2048
    moments = load_file(newest / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in moments} == tensors.keys()
    frozen = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))["frozen"]
    assert frozen["sha256"] == trained.record["fingerprints"]["frozen_weights"]
    assert str(trained.path / "gpt2") in frozen["source"]
    assert trained.rows[-1]["val/loss"] < trained.rows[0]["train/loss"]


def test_killed_it_resumes_to_the_same_bits_and_over_no_other_weights(
    tmp_path: Path, trained: Workplace
) -> None:
    killed = place(tmp_path / "place")
    process = killed.start()
    assert process.wait_for(saving)
    process.kill()
    shutil.copytree(killed.path / "gpt2", tmp_path / "kept")
    change_base(killed)
    output = killed.train_here(expect=1)
    assert "run tiny was trained over other frozen weights than the model has now" in output
    assert "put the weights back where they were" in output
    assert "Traceback" not in output
    shutil.rmtree(killed.path / "gpt2")
    shutil.copytree(tmp_path / "kept", killed.path / "gpt2")
    killed.train_here()
    assert killed.result() == trained.result()


def test_it_is_used_over_its_base_alone(tmp_path: Path, trained: Workplace) -> None:
    evaluated = trained.forge_here("evaluate", "tiny@last", "--json")
    measured = json.loads(evaluated[evaluated.index("{") :])
    assert measured["val/loss"] == pytest.approx(trained.rows[-1]["val/loss"], rel=1e-5)
    generate = ("generate", "tiny@last", "--prompt", "the river", "--max-new-tokens", "4", "--json")
    output = trained.forge_here(*generate)
    (answer,) = json.loads(output[output.index("{") :])["completions"]
    assert answer["tokens"] == 4
    output = trained.forge_here("evaluate", "tiny@last", "--dtype", "int8", "--json")
    small = json.loads(output[output.index("{") :])  # the matrices are added before int8
    assert small["fp32"]["val/loss"] == pytest.approx(measured["val/loss"], rel=1e-5)
    assert small["val/loss"] == pytest.approx(measured["val/loss"], rel=0.01)
    moved = trained.copy(tmp_path / "copy")
    for file in ("gpt2", "recipe.toml"):  # the run knows the folder by the name it was given
        assert (moved.path / file).exists()
    change_base(moved)
    for command in (generate, ("evaluate", "tiny@last")):
        output = moved.forge_here(*command, expect=1)
        assert "was trained over other frozen weights than the model has now: expected" in output
        assert "Traceback" not in output


def test_it_is_exported_alone_or_merged(tmp_path: Path, trained: Workplace) -> None:
    alone, merged = tmp_path / "alone.safetensors", tmp_path / "merged.safetensors"
    output = trained.forge_here("export", "tiny@last", "--weights", str(alone))
    assert "frozen ones (--merge adds them)" in output
    assert (
        load_file(alone).keys() == load_file(trained.checkpoints[-1] / "model.safetensors").keys()
    )
    trained.forge_here("export", "tiny@last", "--weights", str(merged), "--merge")
    base, found = load_file(trained.path / "gpt2" / "model.safetensors"), load_file(merged)
    assert found.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    assert changed == {f"transformer.h.{layer}.attn.c_attn.weight" for layer in range(2)}


def test_frozen_patterns_alone_are_left_out_too(tmp_path: Path, trained: Workplace) -> None:
    found = trained.copy(tmp_path / "copy")
    shutil.rmtree(found.run.path.parent)
    without: Any = Workplace(found.path, {**SHORT, "train.max_steps": "2"})
    (found.path / "recipe.toml").write_text(
        FINE_TUNE.replace('path = "gpt2"', 'path = "gpt2"\nfreeze = ["transformer.*"]'),
        encoding="utf-8",
    )
    output = without.train_here(expect=2)
    assert "every parameter is frozen" in output
    (found.path / "recipe.toml").write_text(
        FINE_TUNE.replace('path = "gpt2"', 'path = "gpt2"\nfreeze = ["transformer.w*"]'),
        encoding="utf-8",
    )
    output = without.train_here()
    assert "frozen weights: " in output
    tensors = load_file(without.checkpoints[-1] / "model.safetensors")
    assert not [name for name in tensors if name.startswith("transformer.w")]
    assert "val/loss" in without.forge_here("evaluate", "tiny@last")


def test_its_checkpoints_are_shown_and_compared_by_layer(trained: Workplace) -> None:
    first, last = (f"{trained.run.id}@{int(path.name[5:])}" for path in trained.checkpoints[-2:])
    text = trained.forge_here("checkpoints", "show", last, "--tensors")
    assert re.search(r"frozen +1\d\d,\d{3} more are not in it: hf-causal", text)
    assert re.search(r"h\.1\.attn\.c_attn\.lora_B\.default\.weight +\d+×4 +F32", text)
    found = json.loads(trained.forge_here("checkpoints", "compare", first, last, "--json"))
    (distances,) = found["distances"]
    assert {item["name"] for item in distances["layers"]} == {"transformer.h.0", "transformer.h.1"}
    assert 0 < distances["total"]["relative"] < 1
    assert found["frozen"] == []
