"""Small models with random weights and their own tokenizers, saved as pre-trained folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

SPECIAL = ("<pad>", "</s>", "<s>", "<mask>")
PAD, EOS, BOS, MASK = range(4)

_SIZES: dict[str, dict[str, Any]] = {
    "t5": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": PAD,
    },
    "gpt2": {
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "bos_token_id": EOS,
    },
    "roberta": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 130,
        "type_vocab_size": 1,
    },
}
_AUTO = {
    "gpt2": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "roberta": "AutoModelForMaskedLM",
}
_WHOLE = {"gpt2": ("$A", "$A $B"), "t5": ("$A </s>", "$A </s> $B </s>")}
"""How a text, or two, are read; by RoBERTa as ``<s> text </s>``."""


def save_pretrained(
    folder: Path, kind: str, texts: Sequence[str], *, vocab_size: int = 400, **changes: Any
) -> Path:
    """Save a model of the type ``kind`` and a byte-level BPE of ``texts`` in ``folder``."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    single, pair = _WHOLE.get(kind, ("<s> $A </s>", "<s> $A </s> $B </s>"))
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        mask_token="<mask>",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    fields = {"vocab_size": len(fast), "pad_token_id": PAD, "eos_token_id": EOS}
    config = transformers.CONFIG_MAPPING[kind](**{**fields, **_SIZES[kind], **changes})
    getattr(transformers, _AUTO[kind]).from_config(config).save_pretrained(folder)
    return folder
