"""What ``forge export --to`` writes, read by transformers and peft in a fresh process.

Logits agree to 5e-6 of values of about 2, in fp32: the same sums, taken in another order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_parts import (
    OWN,
    greedy,
    job,
    loaded,
    own_tables,
    read_elsewhere,
    rows,
    text_data,
    train,
    untrained,
)
from hf_models import save
from pretrained_folders import save_pretrained
from safetensors.torch import load_file

from llmforge.checkpoint import open_checkpoint
from llmforge.errors import ExportError, UsageError
from llmforge.export import export_folder
from llmforge.recipe import identity, load_recipe
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

TOLERANCE = 5e-6
ENCODE = ByteTokenizer().encode
TEXTS = ["The river and\nthe stone  of", "", " été 日本 🙂", "x \t\t y\r\n"]


def logits_of(model: Any, ids: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(ids)).float()


@pytest.mark.timeout(600)
def test_own_models_have_the_same_logits_and_text(tmp_path: Path) -> None:
    models, jobs = {}, []
    for name, options in OWN.items():
        checkpoint = untrained(tmp_path / name, options)
        export_folder(checkpoint, tmp_path / f"{name}-out")
        models[name] = loaded(checkpoint).model
        ids = [ENCODE("The river and the stone")]
        jobs.append(job(tmp_path / f"{name}-out", "AutoModelForCausalLM", ids, texts=TEXTS))
    for (name, model), (told, logits) in zip(models.items(), read_elsewhere(*jobs), strict=True):
        expected = logits_of(model, ids)
        difference = float((logits - expected).abs().max())
        print(f"{name}: {told['class']}, {difference:.1e} of {float(expected.abs().max()):.1f}")
        assert difference < TOLERANCE, name
        assert told["greedy"] == greedy(model, ids[0], 12), name
        assert told["encoded"] == [ENCODE(text) for text in TEXTS]
        assert told["decoded"] == TEXTS


def pretrained(place: Path, kind: str, component: str, form: str) -> dict[str, Any]:
    """Return the tables of a run on a small pre-trained model, which is made in ``place``."""
    folder = save_pretrained(place / "base", kind, ["river stone cloud garden tree bird"] * 20)
    data = {"gpt2": text_data(place / "text")["data"]}.get(kind)
    if data is None:
        name = "instruct" if form == "seq2seq" else "labelled"
        path = str(rows(place, pairs=form == "seq2seq"))
        data = {"name": name, name: {"path": path}}
    return {
        "model": {"name": component, component: {"path": str(folder), "context": 48}},
        "tokenizer": {"name": "from-model"},
        "objective": {"name": form},
        "data": data,
    }


LORA = {"adapter": {"name": "lora", "lora": {"r": 4, "init": "gaussian"}}}


@pytest.mark.timeout(600)
def test_a_causal_model_of_hugging_face_whole_merged_and_as_an_adapter(tmp_path: Path) -> None:
    tables = pretrained(tmp_path, "gpt2", "hf-causal", "next_token")
    whole = train(tmp_path / "whole", tables)
    adapted = train(tmp_path / "adapted", tables | LORA)
    auto, jobs, expected = "AutoModelForCausalLM", [], []
    for number, (checkpoint, merge, base) in enumerate(
        ((whole, False, None), (adapted, True, None), (adapted, False, tmp_path / "base"))
    ):
        target = tmp_path / f"out-{number}"
        export_folder(checkpoint, target, merge=merge)
        own = loaded(checkpoint)
        ids = [own.tokenizer.encode("The river and the stone")]
        jobs.append(job(target, auto, ids, base=base, texts=TEXTS))
        expected.append((logits_of(own.model, ids), greedy(own.model, ids[0], 12)))
    for (told, logits), (wanted, text) in zip(read_elsewhere(*jobs), expected, strict=True):
        print(f"{told['class']}: {float((logits - wanted).abs().max()):.1e}")
        torch.testing.assert_close(logits, wanted, rtol=0, atol=TOLERANCE)
        assert told["greedy"] == text
        assert told["encoded"] == [own.tokenizer.encode(each) for each in TEXTS]
    alone = {path.name for path in target.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= alone
    assert "config.json" not in alone
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["task_type"] == "CAUSAL_LM"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("form", "kind", "component", "auto"),
    [
        ("seq2seq", "t5", "hf-seq2seq", "AutoModelForSeq2SeqLM"),
        ("mlm", "roberta", "hf-encoder", "AutoModelForMaskedLM"),
        ("classify", "roberta", "hf-encoder", "AutoModelForSequenceClassification"),
    ],
)
def test_encoders_and_encoder_decoders_whole_and_adapters(
    tmp_path: Path, form: str, kind: str, component: str, auto: str
) -> None:
    tables = pretrained(tmp_path, kind, component, form)
    jobs, expected = [], []
    more: dict[str, Any] = {"written": [[0, 5, 6]]} if form == "seq2seq" else {}
    for adapter in (False, True):
        checkpoint = train(tmp_path / f"run-{adapter}", tables | (LORA if adapter else {}))
        export_folder(checkpoint, tmp_path / f"out-{adapter}")
        own = loaded(checkpoint)
        tokenizer: Any = own.tokenizer
        ids = [list(tokenizer.encode_whole("river stone cloud"))]
        given: dict[str, Any] = {"base": tmp_path / "base"} if adapter else {}
        if adapter and form == "classify":
            given["of_base"] = {"num_labels": 2}
        kind = "source" if form == "seq2seq" else form
        folder = tmp_path / f"out-{adapter}"
        jobs.append(job(folder, auto, ids, kind=kind, texts=TEXTS, **given, **more))
        inputs = {"input_ids": ids}
        inputs |= {"decoder_input_ids": more["written"]} if more else {}
        inner: Any = own.model.inner  # type: ignore[attr-defined]
        with torch.inference_mode():
            expected.append(inner(**{key: torch.tensor(v) for key, v in inputs.items()}).logits)
    answers = read_elsewhere(*jobs)
    for (told, logits), wanted in zip(answers, expected, strict=True):
        print(f"{told['class']}: {float((logits - wanted).abs().max()):.1e}")
        torch.testing.assert_close(logits, wanted, rtol=0, atol=TOLERANCE)
        assert told["whole"] == [list(tokenizer.encode_whole(text)) for text in TEXTS]
    if form == "classify":
        assert set(answers[0][0]["labels"].values()) == {"long", "short"} == set(own.run.labels)


def test_shards_and_number_formats(tmp_path: Path) -> None:
    checkpoint = untrained(tmp_path / "run", {})
    export_folder(checkpoint, tmp_path / "out", dtype="bf16", max_shard_size=20_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    for shard in shards:
        tensors = load_file(tmp_path / "out" / shard)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    own = loaded(checkpoint)
    ids = [own.tokenizer.encode("The river and the stone")]
    ((_, logits),) = read_elsewhere(job(tmp_path / "out", "AutoModelForCausalLM", ids))
    expected = logits_of(own.model, ids)
    difference = float((logits - expected).abs().max())
    assert 0 < difference < 0.05 * float(expected.abs().max())


def test_the_weights_under_their_own_names_need_no_counterpart(tmp_path: Path) -> None:
    options = {"norm": "layernorm"}  # SwiGLU over LayerNorm: nobody else has it
    checkpoint = untrained(tmp_path / "run", options)
    with pytest.raises(ExportError) as refused:
        export_folder(checkpoint, tmp_path / "out")
    assert refused.value.message == (
        'model.transformer.activation = "swiglu" with norm = "layernorm" has no counterpart in '
        "Llama, Qwen2, Qwen3, GPT-2 or GPT-NeoX"
    )
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    export_folder(checkpoint, tmp_path / "out", layout="safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == load_file(checkpoint.path / "model.safetensors").keys()
    assert (tmp_path / "out" / "tokenizer" / "forge.json").is_file()


def test_equal_runs_give_equal_bytes_and_nothing_of_this_machine(tmp_path: Path) -> None:
    tables = own_tables(tmp_path, {})
    tables["deploy"] = {"to": ["s3://secret-place/model"]}
    for name in ("first", "second"):
        text_data(tmp_path / "text")
        checkpoint = train(tmp_path / name, tables)
        export_folder(checkpoint, tmp_path / f"{name}-out")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / f"{name}-out").iterdir()}
        for name in ("first", "second")
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    expected = {
        "README.md",
        "config.json",
        "curves.png",
        "generation_config.json",
        "metrics.json",
        "model.safetensors",
        "recipe.toml",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "training_args.json",
    }
    assert first.keys() == expected
    again = load_recipe(tmp_path / "first-out" / "recipe.toml")
    assert identity(again).hash == identity(load_recipe(tmp_path / "first" / "recipe.toml")).hash
    private = (str(tmp_path / "first").encode(), b"secret-place", b"tracker")
    assert [name for name in first if any(text in first[name] for text in private)] == []


def test_the_log_of_training_is_that_of_the_trainer_of_transformers(tmp_path: Path) -> None:
    from transformers import TrainerState

    checkpoint = train(tmp_path / "run", own_tables(tmp_path, {}))
    export_folder(checkpoint, tmp_path / "out")
    state = TrainerState.load_from_json(str(tmp_path / "out" / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.train_batch_size) == (6, 6, 4)
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    evaluations = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    assert (len(losses), len(evaluations)) == (4, 2)
    assert state.best_metric == min(evaluations)
    kept = {"checkpoint": {"every": 2, "keep_last": 10}}
    earlier = train(tmp_path / "more", own_tables(tmp_path, {}) | kept)
    first = earlier.path.with_name("step-00000002")
    export_folder(open_checkpoint(first), tmp_path / "early")
    state = TrainerState.load_from_json(str(tmp_path / "early" / "trainer_state.json"))
    assert {entry["step"] for entry in state.log_history} == {2}


def test_a_grown_vocabulary_or_drawn_weights_need_the_whole_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", "gpt2", n_positions=64, vocab_size=200)
    tables = {
        "model": {"name": "hf-causal", "hf-causal": {"path": str(folder), "context": 48}},
        **text_data(tmp_path / "text"),
        **LORA,
    }
    checkpoint = train(tmp_path / "run", tables)
    with pytest.raises(ExportError, match="larger vocabulary"):
        export_folder(checkpoint, tmp_path / "out")
    export_folder(checkpoint, tmp_path / "out", merge=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 257
    with pytest.raises(UsageError, match="already exists"):
        export_folder(checkpoint, tmp_path / "out", merge=True)
    export_folder(checkpoint, tmp_path / "out", merge=True, overwrite=True)
    with pytest.raises(UsageError, match="no training_args"):
        export_folder(checkpoint, tmp_path / "text", merge=True, overwrite=True)
