"""A GGUF file, which llama.cpp reads, from a folder that ``transformers`` reads.

The form of each architecture is that of llama.cpp's own converter: which tensors are in which
order, and which stay fp32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import ExportError, Problem, RecipeError

if TYPE_CHECKING:
    import gguf
    from numpy.typing import NDArray

    Array = NDArray[Any]

_ARCHITECTURES = {
    "llama": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gpt2": "GPT2",
    "gpt_neox": "GPTNEOX",
}
_FILE_TYPES = {
    "fp32": "ALL_F32",
    "fp16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
}
_BLOCK = 32
"""Numbers that q8_0 quantises together; rows of another length stay fp16."""
_NEVER_MERGED = "[none] [none]"
"""A merge of what no text is cut into: llama.cpp reads no tokenizer without any."""
_SPLITS = {
    r"\p{N}{1,3}": "llama-bpe",
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|": "qwen2",
}
"""How llama.cpp calls the rules that cut a text before byte pairs are merged, by a part of them."""


def write_gguf(folder: Path, target: Path, *, dtype: str, name: str) -> None:
    """Write the model and the tokenizer in ``folder`` to the GGUF file ``target``.

    Args:
        folder: has ``config.json``, weights as safetensors and ``tokenizer.json``.
        target: a new file.
        dtype: of matrices: ``fp32``, ``fp16``, ``bf16`` or ``q8_0``.
        name: what the file calls the model.

    Raises:
        ExportError: llama.cpp does not have this architecture or tokenizer.
        RecipeError: the package ``gguf`` is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        problem = Problem(
            message="GGUF needs the gguf package", remedy="pip install 'llmforge-train[gguf]'"
        )
        raise RecipeError([problem]) from error
    config = _read(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise ExportError(
            f"models of the type '{kind}' have no form in GGUF here: only "
            f"{', '.join(_ARCHITECTURES)} have",
            remedy="--format hf writes what llama.cpp's own convert_hf_to_gguf.py reads",
        )
    if (strange := _strange(config)) is not None:
        raise ExportError(
            f"a model with {strange} has no form in GGUF here",
            remedy="--format hf writes what llama.cpp's own convert_hf_to_gguf.py reads",
        )
    architecture = gguf.MODEL_ARCH[_ARCHITECTURES[kind]]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, kind, config)
    _add_tokenizer(writer, folder, rows=int(config["vocab_size"]))
    names = gguf.get_tensor_name_map(architecture, _sizes(kind, config)["layers"])
    for their, tensor in _tensors(folder, kind, config):
        own = names.get_name(their, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise ExportError(f"the weight '{their}' has no place in a GGUF file")
        data, as_type = _encoded(own, tensor, dtype)
        writer.add_tensor(own, data, raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _strange(config: Mapping[str, Any]) -> str | None:
    """Return what of a model llama.cpp would compute otherwise; None when it is as usual."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    usual = {
        "use_sliding_window": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        **({"attention_bias": True} if config["model_type"] == "gpt_neox" else {}),
        **({} if "gpt" in config["model_type"] else {"hidden_act": "silu"}),
    }
    if kind != "default":
        return f"scaled rotary positions ('{kind}')"
    wrong = [key for key, value in usual.items() if config.get(key, value) != value]
    return f"{wrong[0]} = {config[wrong[0]]}" if wrong else None


def _add_sizes(writer: gguf.GGUFWriter, kind: str, config: Mapping[str, Any]) -> None:
    sizes = _sizes(kind, config)
    writer.add_block_count(sizes["layers"])
    writer.add_context_length(sizes["context"])
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["feed_forward"])
    writer.add_head_count(sizes["heads"])
    writer.add_vocab_size(config["vocab_size"])
    if kind == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    rope = {**config, **(config.get("rope_parameters") or {})}
    size = config.get("head_dim") or sizes["width"] // sizes["heads"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
    if kind == "gpt_neox":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_parallel_residual(config["use_parallel_residual"])
        return
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(size)
    writer.add_value_length(size)


def _sizes(kind: str, config: Mapping[str, Any]) -> dict[str, int]:
    if kind == "gpt2":
        return {
            "layers": config["n_layer"],
            "context": config["n_positions"],
            "width": config["n_embd"],
            "feed_forward": config.get("n_inner") or 4 * config["n_embd"],
            "heads": config["n_head"],
        }
    return {
        "layers": config["num_hidden_layers"],
        "context": config["max_position_embeddings"],
        "width": config["hidden_size"],
        "feed_forward": config["intermediate_size"],
        "heads": config["num_attention_heads"],
    }


# Tensors ---------------------------------------------------------------------------------------


def _tensors(folder: Path, kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Yield every weight, by its name in transformers, as llama.cpp wants it laid out."""
    from safetensors import safe_open

    tied = bool(config.get("tie_word_embeddings"))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                tensor = _LAYOUTS[kind](name, opened.get_tensor(name).float().numpy(), config)
                yield name, tensor
                if tied and name == "gpt_neox.embed_in.weight":
                    yield "embed_out.weight", tensor  # llama.cpp has no tied GPT-NeoX


def _llama(name: str, tensor: Array, config: Mapping[str, Any]) -> Array:
    """Put the two halves of each head's pairs beside each other, where ``rope`` looks for them."""
    for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if f".{part}." in name:
            count = config[heads]
            pairs = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
            return pairs.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _gpt2(name: str, tensor: Array, config: Mapping[str, Any]) -> Array:
    del config
    turned = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
    return tensor.T if turned else tensor


def _gpt_neox(name: str, tensor: Array, config: Mapping[str, Any]) -> Array:
    """Put all queries first, then all keys, then all values."""
    if ".query_key_value." not in name:
        return tensor
    heads = tensor.reshape(config["num_attention_heads"], 3, -1, *tensor.shape[1:])
    return heads.swapaxes(0, 1).reshape(tensor.shape)


def _as_it_is(name: str, tensor: Array, config: Mapping[str, Any]) -> Array:
    del name, config
    return tensor


_LAYOUTS: Mapping[str, Callable[[str, Any, Mapping[str, Any]], Any]] = {
    "llama": _llama,
    "qwen2": _as_it_is,
    "qwen3": _as_it_is,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}


def _encoded(name: str, tensor: Array, dtype: str) -> tuple[Array, Any]:
    """Return a weight in the number format of the file; vectors and positions stay fp32."""
    import gguf
    import numpy as np

    types = gguf.GGMLQuantizationType
    data = np.ascontiguousarray(tensor)
    if data.ndim < 2 or dtype == "fp32" or name.startswith("position_embd"):
        return data, types.F32
    if dtype == "bf16":
        return gguf.quants.quantize(data, types.BF16), types.BF16
    if dtype == "q8_0" and data.shape[-1] % _BLOCK == 0:
        return gguf.quants.quantize(data, types.Q8_0), types.Q8_0
    return data.astype(np.float16), types.F16


# Tokenizer -------------------------------------------------------------------------------------


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, *, rows: int) -> None:
    """Add a byte-level BPE; ids that the tokenizer does not have are unused ones."""
    import gguf

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            "the run's tokenizer cannot be written as a tokenizer.json, and GGUF needs one",
            remedy="--format hf writes the model without it",
        )
    content = _read(path)
    model, rules = content["model"], _rules(content)
    if model.get("type") != "BPE" or rules is None:
        raise ExportError(
            f"the tokenizer ({model.get('type')}) has rules that are not known in GGUF here: only "
            "byte-level BPE as of GPT-2, Llama 3 and Qwen2 is",
            remedy="--format hf writes what llama.cpp's own convert_hf_to_gguf.py reads",
        )
    tokens = [f"[unused {number}]" for number in range(rows)]
    kinds = [int(gguf.TokenType.UNUSED)] * rows
    for text, number in model["vocab"].items():
        tokens[number], kinds[number] = text, int(gguf.TokenType.NORMAL)
    for added in content.get("added_tokens", ()):
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    merges = [item if isinstance(item, str) else " ".join(item) for item in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rules)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or [_NEVER_MERGED])
    _add_special_tokens(writer, folder, tokens)


def _add_special_tokens(writer: gguf.GGUFWriter, folder: Path, tokens: list[str]) -> None:
    named = _read(folder / "special_tokens_map.json")
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("unk_token", writer.add_unk_token_id),
    ):
        if named.get(name) in tokens:
            add(tokens.index(named[name]))
    writer.add_add_bos_token(False)  # nothing was trained on with one before it
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def _rules(content: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of the rules that cut a text into words; None when it has none."""
    found = content.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers", [found])
    if content.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    if [part.get("type") for part in parts] == ["ByteLevel"]:
        return None if parts[0].get("add_prefix_space") else "gpt-2"
    if [part.get("type") for part in parts] != ["Split", "ByteLevel"]:
        return None
    pattern = str((parts[0].get("pattern") or {}).get("Regex", ""))
    return next((name for part, name in _SPLITS.items() if part in pattern), None)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
