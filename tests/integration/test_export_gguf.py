"""GGUF files read back with the reader of the ``gguf`` package.

What llama.cpp's loader expects is compared, tensor by tensor, and the order of what it turns; and
what transformers computes from the file, for the architectures that it reads. What llama.cpp itself
computes is in ``test_gguf_in_llama_cpp``, for where it is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_parts import OWN, own_tables, train, untrained
from gguf import GGMLQuantizationType, GGUFReader, get_tensor_name_map
from gguf.constants import MODEL_ARCH
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from llmforge.checkpoint import Checkpoint
from llmforge.errors import ExportError
from llmforge.export import export_folder
from llmforge.export.gguf_file import write_gguf
from llmforge.generation import load_checkpoint

ARCHITECTURES = {
    "llama-grouped-untied": "LLAMA",
    "llama-biases": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gpt2": "GPT2",
    "gpt-neox": "GPTNEOX",
    "gpt-neox-one-after-the-other": "GPTNEOX",
}


def exported(tmp_path: Path, name: str, **options: Any) -> tuple[Checkpoint, GGUFReader]:
    checkpoint = untrained(tmp_path / "run", OWN[name])
    export_folder(checkpoint, tmp_path / "out", layout="gguf", **options)
    return checkpoint, GGUFReader(tmp_path / "out" / "model.gguf")


def values(reader: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def weights(reader: GGUFReader) -> dict[str, np.ndarray]:
    """Return the tensors in fp32, in the shapes of torch."""
    return {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        for tensor in reader.tensors
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensors_and_sizes_read_back(tmp_path: Path, name: str) -> None:
    checkpoint, reader = exported(tmp_path, name)
    export_folder(checkpoint, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    told, found = values(reader), weights(reader)
    kind = told["general.architecture"]
    assert MODEL_ARCH[ARCHITECTURES[name]].name.lower() == kind
    assert told[f"{kind}.block_count"] == 2
    assert told[f"{kind}.context_length"] == 48
    assert told[f"{kind}.embedding_length"] == 32
    names = get_tensor_name_map(MODEL_ARCH[ARCHITECTURES[name]], 2)
    theirs = load_file(tmp_path / "hf" / "model.safetensors")
    expected = {
        names.get_name(their, try_suffixes=(".weight", ".bias")): tensor
        for their, tensor in theirs.items()
    }
    if kind == "gptneox" and config["tie_word_embeddings"]:
        expected["output.weight"] = expected["token_embd.weight"]
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        back = _undone(kind, str(key), torch.from_numpy(found[key].copy()), config)
        assert torch.equal(back, tensor), key


def _undone(kind: str, name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Return a tensor in the order of transformers."""
    if kind == "gpt2" and name.endswith(
        ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    ):
        return tensor.t()
    if kind == "gptneox" and ".attn_qkv." in name:
        heads = config["num_attention_heads"]
        return tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).reshape(tensor.shape)
    for part, key in ((".attn_q.", "num_attention_heads"), (".attn_k.", "num_key_value_heads")):
        if kind == "llama" and part in name:
            pairs = tensor.unflatten(0, (config[key], -1, 2)).transpose(1, 2)
            return pairs.reshape(tensor.shape)
    return tensor


def test_rotary_positions_are_told_and_pairs_are_neighbours_in_llama(tmp_path: Path) -> None:
    """llama.cpp turns elements 2i and 2i + 1 of a Llama's heads; transformers i and i + half."""
    checkpoint, reader = exported(tmp_path, "llama-grouped-untied")
    export_folder(checkpoint, tmp_path / "hf")
    told = values(reader)
    assert told["llama.rope.freq_base"] == 10_000
    assert told["llama.rope.dimension_count"] == 8
    assert told["llama.attention.head_count_kv"] == 2
    theirs = load_file(tmp_path / "hf" / "model.safetensors")
    keys = theirs["model.layers.0.self_attn.k_proj.weight"]  # 2 heads of 8
    found = weights(reader)["blk.0.attn_k.weight"]
    assert np.array_equal(found[:4], keys[[0, 4, 1, 5]].numpy())
    assert np.array_equal(found[8:10], keys[[8, 12]].numpy())


@pytest.mark.parametrize(
    ("dtype", "of_matrices", "tolerance"),
    [
        ("fp16", GGMLQuantizationType.F16, 1e-3),
        ("bf16", GGMLQuantizationType.BF16, 8e-3),
        ("q8_0", GGMLQuantizationType.Q8_0, 8e-3),
    ],
)
def test_matrices_are_in_the_number_format_asked_for(
    tmp_path: Path, dtype: str, of_matrices: GGMLQuantizationType, tolerance: float
) -> None:
    checkpoint, reader = exported(tmp_path, "qwen2", dtype=dtype)
    types = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert types["blk.0.ffn_up.weight"] == of_matrices
    assert types["blk.0.attn_norm.weight"] == GGMLQuantizationType.F32
    assert types["blk.1.attn_q.bias"] == GGMLQuantizationType.F32
    own = load_file(checkpoint.path / "model.safetensors")
    wanted = own["blocks.0.feed_forward.up.weight"].chunk(2)[1].numpy()
    found = weights(reader)["blk.0.ffn_up.weight"]
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3), ("bf16", 0.05), ("q8_0", 0.2)]
)
@pytest.mark.parametrize(
    "name", ["llama", "llama-grouped-untied", "llama-biases", "qwen2", "qwen3", "gpt2"]
)
def test_transformers_computes_the_same_from_the_file(
    tmp_path: Path, name: str, dtype: str, tolerance: float
) -> None:
    """The configuration is that of the folder: transformers does not read all of it from GGUF."""
    checkpoint, _ = exported(tmp_path, name, dtype=dtype)
    export_folder(checkpoint, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        gguf_file="model.gguf",
        config=AutoConfig.from_pretrained(tmp_path / "hf"),
        dtype=torch.float32,
    ).eval()
    own: Any = load_checkpoint(checkpoint, device="cpu", dtype="fp32").model
    ids = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = own(ids).float()
        found = theirs(ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_the_tokenizer_is_in_the_file(tmp_path: Path) -> None:
    tables = own_tables(tmp_path, {}) | {"tokenizer": {"name": "bpe", "bpe": {"vocab_size": 280}}}
    checkpoint = train(tmp_path / "run", tables)
    export_folder(checkpoint, tmp_path / "out", layout="gguf")
    told = values(GGUFReader(tmp_path / "out" / "model.gguf"))
    saved = json.loads((checkpoint.path / "tokenizer" / "tokenizer.json").read_text())
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens = told["tokenizer.ggml.tokens"]
    assert {text: number for number, text in enumerate(tokens)} == saved["model"]["vocab"]
    merges = [
        item if isinstance(item, str) else " ".join(item) for item in saved["model"]["merges"]
    ]
    assert told["tokenizer.ggml.merges"] == merges
    assert tokens[told["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"
    assert told["tokenizer.ggml.token_type"][0] == 3  # control


def test_a_tokenizer_without_merges_has_one_that_is_never_made(tmp_path: Path) -> None:
    """llama.cpp refuses a file without any."""
    _, reader = exported(tmp_path, "llama")
    told = values(reader)
    (merge,) = told["tokenizer.ggml.merges"]
    assert not set(merge.split()) & set(told["tokenizer.ggml.tokens"])


def test_what_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ExportError, match="of the type 't5' have no form in GGUF"):
        write_gguf(tmp_path, tmp_path / "model.gguf", dtype="fp32", name="x")
    for changes, message in (
        ({"rope_parameters": {"rope_type": "llama3"}}, "scaled rotary positions"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu"),
    ):
        config = {"model_type": "llama", **changes}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(ExportError, match=message):
            write_gguf(tmp_path, tmp_path / "model.gguf", dtype="fp32", name="x")
    assert not (tmp_path / "model.gguf").exists()


def test_the_approximation_of_gelu_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    checkpoint = untrained(tmp_path / "run", OWN["gpt2-exact-untied"])
    export_folder(checkpoint, tmp_path / "out", layout="gguf", notice=told.append)
    assert ["approximation with tanh" in text for text in told] == [True]
