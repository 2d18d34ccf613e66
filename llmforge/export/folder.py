"""A checkpoint as a folder that others read, published whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmforge.checkpoint import Checkpoint, load_tensors
from llmforge.checkpoint.format import TOKENIZER
from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.data.prompts import TEMPLATE
from llmforge.errors import ExportError, UsageError
from llmforge.export.model_card import CardFacts, write_card
from llmforge.export.publish import entries, published, require_place
from llmforge.export.run_facts import read_facts, write_facts
from llmforge.export.whole_model import adapter_of, merge_adapter, whole_weights
from llmforge.interfaces import (
    HuggingFaceAdapter,
    HuggingFaceModel,
    HuggingFaceTokenizer,
    weight_count,
)

if TYPE_CHECKING:
    from llmforge.generation.load import LoadedModel

Layout = Literal["hf", "safetensors", "gguf"]

SHARD_SIZE = 5_000_000_000
"""Bytes of weights in one file at most, unless a single tensor has more."""

_DTYPES = ("fp32", "bf16", "fp16")
_GGUF_DTYPES = (*_DTYPES, "q8_0")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder that was exported.

    Attributes:
        path: the folder.
        files: size and SHA-256 of every file in it, by its path within the folder.
    """

    path: Path
    files: Mapping[str, FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def export_folder(
    checkpoint: Checkpoint,
    target: Path,
    *,
    layout: Layout = "hf",
    merge: bool = False,
    dtype: str | None = None,
    max_shard_size: int = SHARD_SIZE,
    licence: str | None = None,
    overwrite: bool = False,
    notice: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write ``checkpoint`` to the new folder ``target``.

    The model is in memory as a whole, on the CPU. Equal checkpoints of equal runs give equal bytes.

    Args:
        checkpoint: what to export.
        target: the folder, which does not exist or is empty.
        layout: ``hf`` for what ``transformers`` reads, ``safetensors`` for the weights under their
            own names, ``gguf`` for what llama.cpp reads.
        merge: add the weights of an adapter to those it changes; without it an adapter is written
            alone.
        dtype: ``fp32``, ``bf16`` or ``fp16``, for GGUF also ``q8_0``; None for fp32.
        max_shard_size: bytes of weights in one file at most.
        licence: of the model, as the hub names licences, for the card; None for that of the
            published model it began from, where that is known.
        overwrite: replace a folder that was exported before.
        notice: told what the folder lacks.

    Raises:
        UsageError: ``target`` is there already, or the options make no sense.
        ExportError: the model has no form in this layout.
        CheckpointError: the checkpoint is damaged, or the disk does not take the folder.
    """
    from llmforge.generation import load_checkpoint

    _require_options(layout, dtype, max_shard_size)
    require_place(target, overwrite=overwrite)
    facts = read_facts(checkpoint)
    loaded = load_checkpoint(checkpoint, device="cpu", dtype="fp32", notice=notice)
    adapter = adapter_of(loaded)
    if layout == "gguf" and adapter is not None and not merge:
        raise UsageError("an adapter alone has no form in GGUF", remedy="--merge adds it")
    if merge and adapter is None:
        notice("there is no adapter to merge: the model is written as it is")
    if merge:
        merge_adapter(loaded)
    alone = adapter is not None and not merge
    parameters = sum(weight_count(tensor) for _, tensor in loaded.model.named_parameters())
    with published(target) as work:
        if layout == "safetensors":
            _own_weights(loaded, work, alone=alone, dtype=dtype, max_shard_size=max_shard_size)
            shutil.copytree(checkpoint.path / TOKENIZER, work / TOKENIZER)
        elif alone:
            _adapter(loaded, adapter, work, dtype=dtype)
        elif layout == "hf":
            _hugging_face(loaded, work, dtype=dtype, max_shard_size=max_shard_size)
        else:
            _gguf(loaded, work, dtype=dtype, notice=notice)
        if layout == "hf":
            _tokenizer(loaded, work, notice=notice)
        card = CardFacts.of(
            facts,
            loaded,
            layout=layout,
            alone=alone,
            dtype=dtype or "fp32",
            parameters=parameters,
            licence=licence,
        )
        write_facts(work, facts)
        write_card(work, card)
        files = entries(work)
    return Exported(path=target, files=files)


def _require_options(layout: str, dtype: str | None, max_shard_size: int) -> None:
    if layout not in get_args(Layout):
        raise UsageError(f"--format must be hf, safetensors or gguf, got '{layout}'")
    known = _GGUF_DTYPES if layout == "gguf" else _DTYPES
    if dtype is not None and dtype not in known:
        raise UsageError(
            f"--dtype must be {', '.join(known[:-1])} or {known[-1]} with --format {layout}, "
            f"got '{dtype}'"
        )
    if max_shard_size <= 0:
        raise UsageError(f"--max-shard-size must be more than 0 bytes, got {max_shard_size}")


def _hugging_face(
    loaded: LoadedModel, work: Path, *, dtype: str | None, max_shard_size: int
) -> None:
    model: Any = loaded.model
    if not isinstance(model, HuggingFaceModel):
        name = loaded.recipe.selected("model").name
        raise ExportError(
            f"the model '{name}' has no form in transformers",
            remedy="--format safetensors writes the weights under their own names",
        )
    _cast(model, dtype)
    model.save_hugging_face(work, tokenizer=loaded.tokenizer, max_shard_size=max_shard_size)


def _adapter(loaded: LoadedModel, adapter: Any, work: Path, *, dtype: str | None) -> None:
    if not isinstance(adapter, HuggingFaceAdapter):
        name = loaded.recipe.selected("adapter").name
        raise ExportError(
            f"the adapter '{name}' has no form of its own in transformers",
            remedy="--merge writes the whole model",
        )
    _cast(loaded.model, dtype)
    adapter.save_hugging_face(loaded.model, work)


def _gguf(
    loaded: LoadedModel, work: Path, *, dtype: str | None, notice: Callable[[str], None]
) -> None:
    from llmforge.export.gguf_file import write_gguf

    form = work / ".hf"
    form.mkdir()
    _hugging_face(loaded, form, dtype=None, max_shard_size=SHARD_SIZE)
    _tokenizer(loaded, form, notice=notice)
    config = json.loads((form / "config.json").read_text(encoding="utf-8"))
    if "gelu" in (config.get("hidden_act"), config.get("activation_function")):
        notice("llama.cpp has GELU by its approximation with tanh only: texts may differ a little")
    write_gguf(form, work / "model.gguf", dtype=dtype or "fp32", name=loaded.run.id)
    shutil.rmtree(form)


def _own_weights(
    loaded: LoadedModel, work: Path, *, alone: bool, dtype: str | None, max_shard_size: int
) -> None:
    """Write the weights under their own names; of a model with an adapter what was trained."""
    import huggingface_hub

    tensors = whole_weights(_cast(loaded.model, dtype))
    if alone:
        trained = load_tensors(loaded.checkpoint.path, "model", verified=True).keys()
        tensors = {name: tensor for name, tensor in tensors.items() if name in trained}
    huggingface_hub.save_torch_state_dict(tensors, work, max_shard_size=max_shard_size)


def _tokenizer(loaded: LoadedModel, work: Path, *, notice: Callable[[str], None]) -> None:
    """Write the tokenizer as ``AutoTokenizer`` reads it, with the template of the run."""
    kept = loaded.checkpoint.path / TOKENIZER
    if not isinstance(loaded.tokenizer, HuggingFaceTokenizer):
        shutil.copytree(kept, work / TOKENIZER)
        name = loaded.recipe.selected("tokenizer").name
        notice(
            f"the tokenizer '{name}' cannot be written as a tokenizer.json, so AutoTokenizer does "
            f"not read it: its own files are in the folder '{TOKENIZER}'"
        )
        return
    loaded.tokenizer.save_hugging_face(work)
    if (kept / TEMPLATE).is_file():
        shutil.copyfile(kept / TEMPLATE, work / TEMPLATE)


def _cast(model: Any, dtype: str | None) -> Any:
    import torch

    names = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return model.to(names[dtype]) if dtype in names else model


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``500MB`` or ``5 GB`` means.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"--max-shard-size: '{text}' is not a size", remedy="write one such as 500MB or 5GB"
        )
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
