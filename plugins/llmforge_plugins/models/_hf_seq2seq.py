"""An encoder-decoder of Hugging Face behind llmforge's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache
from transformers.models.auto import modeling_auto as auto

from llmforge import Problem
from llmforge.interfaces import IGNORE_INDEX, Batch, RunContext
from llmforge_plugins._pretrained import find_source, read_config
from llmforge_plugins.models._cross_entropy import layer_log_probs, linear_cross_entropy
from llmforge_plugins.models._hf_load import load
from llmforge_plugins.models._hf_module import HuggingFaceModule, within
from llmforge_plugins.models._linear import has_matrix

_PLAIN_HEADS = frozenset({"t5", "mt5"})
"""Types whose logits are the decoder's states, perhaps scaled, times one matrix."""


def build(options: Any, run: RunContext, *, vocab_size: int, name: str) -> Seq2SeqModel:
    """Return the model of ``hf-seq2seq``; errors as :func:`load`."""
    loaded = load(
        options, run, auto_class="AutoModelForSeq2SeqLM", vocab_size=vocab_size, name=name
    )
    return Seq2SeqModel(loaded.model, context=options.context, resolution=loaded.resolution)


def problems_of(options: Any, run: RunContext, *, key: str) -> list[Problem]:
    """Return why the model is not an encoder-decoder, by its ``config.json`` alone."""
    config = read_config(find_source(options.path, revision=options.revision, run=run))
    kind = str(config.get("model_type", ""))
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or options.trust_remote_code:
        return []
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    other = "hf-encoder" if masked else "hf-causal" if causal else ""
    message = f"'{options.path}' ('{kind}') is not an encoder-decoder"
    return [Problem(key=key, message=message, remedy=other and f"use the model {other}")]


class SourceCache:
    """A source that was read, and what the decoder has written after it.

    Attributes:
        states: the encoder's, [rows, length, width].
        mask: which of them count, [rows, length].
        written: keys and values of the decoder.
    """

    def __init__(self, states: Tensor, mask: Tensor) -> None:
        self.states = states
        self.mask = mask
        self.written = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def select(self, rows: Tensor) -> None:
        """Make row ``i`` what row ``rows[i]`` was."""
        self.states, self.mask = self.states[rows], self.mask[rows]
        if self.written.get_seq_length():
            self.written.batch_select_indices(rows)


class Seq2SeqModel(HuggingFaceModule):
    """Implements :class:`llmforge.interfaces.LanguageModel` for the form ``seq2seq``."""

    @property
    def start_id(self) -> int:
        """The token that the decoder begins with."""
        found = self.config.decoder_start_token_id
        return int(self.config.pad_token_id if found is None else found)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats of the targets and their number."""
        inputs, targets = batch["inputs"], batch["targets"]
        mask = within(batch["lengths"], inputs.shape[1])
        written = self._shifted(targets)
        flat = targets.flatten()
        if self.config.model_type in _PLAIN_HEADS:
            states = self._encode(inputs, mask)
            hidden = self._decoded(written, states, mask)[0].flatten(0, 1) * self._scale()
            head = self.inner.get_output_embeddings()
            if has_matrix(head):
                total = linear_cross_entropy(hidden, head.weight, flat)
            else:
                total = -layer_log_probs(hidden, head, flat).sum()
        else:
            logits = self.inner(
                input_ids=inputs, attention_mask=mask, decoder_input_ids=written, use_cache=False
            ).logits
            total = functional.cross_entropy(
                logits.flatten(0, 1).float(), flat, ignore_index=IGNORE_INDEX, reduction="sum"
            )
        return total, (flat != IGNORE_INDEX).sum()

    def read(self, inputs: Tensor, lengths: Tensor) -> SourceCache:
        """Return sources that were read, int64 [rows, length] of which ``lengths`` [rows] count."""
        mask = within(lengths, inputs.shape[1])
        return SourceCache(self._encode(inputs, mask), mask)

    def forward(self, inputs: Tensor, *, cache: SourceCache) -> Tensor:
        """Return logits [rows, positions, vocabulary] after ``inputs``, written after a source."""
        logits: Tensor = self.inner(
            encoder_outputs=(cache.states,),
            attention_mask=cache.mask,
            decoder_input_ids=inputs,
            past_key_values=cache.written,
            use_cache=True,
        ).logits
        return logits

    def flops_per_token(self) -> float:
        """Return the operations for one token: of a source token half the matrices, of a target
        token the other half, so that half of them count for either.
        """
        return self.matrix_flops() / 2

    def _encode(self, inputs: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.inner.get_encoder()(input_ids=inputs, attention_mask=mask)[0]
        return states

    def _decoded(self, written: Tensor, states: Tensor, mask: Tensor) -> Any:
        return self.inner.get_decoder()(
            input_ids=written,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        )

    def _shifted(self, targets: Tensor) -> Tensor:
        """Return what the decoder has written before each target; padding is never seen."""
        begin = targets.new_full((targets.shape[0], 1), self.start_id)
        pad = int(self.config.pad_token_id or 0)
        return torch.cat([begin, targets[:, :-1]], dim=1).masked_fill(
            torch.cat([begin, targets[:, :-1]], dim=1) == IGNORE_INDEX, pad
        )

    def _scale(self) -> float:
        scaled = getattr(self.config, "scale_decoder_outputs", self.config.tie_word_embeddings)
        return float(self.config.d_model**-0.5) if scaled else 1.0
