"""An encoder of Hugging Face behind llmforge's interface, with a head for tokens or for labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.auto import modeling_auto as auto

from llmforge import Problem
from llmforge.errors import DataError
from llmforge.interfaces import IGNORE_INDEX, Batch, RunContext
from llmforge_plugins._pretrained import find_source, read_config
from llmforge_plugins.models._hf_load import load
from llmforge_plugins.models._hf_module import HuggingFaceModule, within

_OFFSET = frozenset({"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "longformer"})
"""Types whose positions begin after that of padding, so that some of their table is not used."""

_NEW_HEADS = ("classifier", "score", "pre_classifier", "pooler", "classification_head")


def build(options: Any, run: RunContext, *, vocab_size: int, name: str) -> EncoderModel:
    """Return the model of ``hf-encoder``; errors as :func:`load`.

    Raises:
        DataError: it shall tell labels, and the data has none.
    """
    common: dict[str, Any] = {"vocab_size": vocab_size, "name": name}
    if run.form != "classify":
        loaded = load(options, run, auto_class="AutoModelForMaskedLM", **common)
        return HiddenTokenModel(loaded.model, context=options.context, resolution=loaded.resolution)
    if len(run.labels) < 2:
        raise DataError(
            "the data has no labels to tell apart",
            remedy="use the data labelled, with a label column",
        )
    loaded = load(
        options,
        run,
        auto_class="AutoModelForSequenceClassification",
        new=_NEW_HEADS,
        id2label=dict(enumerate(run.labels)),
        label2id={label: number for number, label in enumerate(run.labels)},
        problem_type="single_label_classification",
        **common,
    )
    return LabelModel(loaded.model, context=options.context, resolution=loaded.resolution)


def problems_of(options: Any, run: RunContext, *, key: str) -> list[Problem]:
    """Return why the model cannot be trained as an encoder, by its ``config.json`` alone."""
    config = read_config(find_source(options.path, revision=options.revision, run=run))
    kind = str(config.get("model_type", ""))
    known = (
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        if run.form == "classify"
        else auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind not in known:
        message = f"'{options.path}' ('{kind}') is not an encoder"
        decoder = "hf-seq2seq" if config.get("is_encoder_decoder") else "hf-causal"
        return [Problem(key=f"{key}.path", message=message, remedy=f"use the model {decoder}")]
    longest = config.get("max_position_embeddings")
    if kind in _OFFSET and isinstance(longest, int):
        usable = longest - int(config.get("pad_token_id") or 0) - 1
        if options.context > usable:
            message = f"a context of {options.context:,} is more than the model's {usable:,}"
            return [Problem(key=f"{key}.context", message=message, remedy=f"set it to {usable}")]
    return []


class EncoderModel(HuggingFaceModule):
    """Reads a text in both directions."""

    def flops_per_token(self) -> float:
        """Return the floating-point operations of forward and backward for one token."""
        text = self.config
        return self.matrix_flops() + 12.0 * text.num_hidden_layers * text.hidden_size * self.context


class HiddenTokenModel(EncoderModel):
    """Tells hidden tokens: the form ``mlm``."""

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats of the hidden tokens and their number.

        Logits are computed where something is hidden only.
        """
        inputs, targets = batch["inputs"], batch["targets"].flatten()
        logits = self(inputs, lengths=batch["lengths"], places=batch["places"])
        total = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, (targets != IGNORE_INDEX).sum()

    def forward(
        self, inputs: Tensor, *, lengths: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return logits [rows, positions, vocabulary], at ``places`` [rows, positions] if given."""
        mask = None if lengths is None else within(lengths, inputs.shape[1])
        hidden = self.inner.base_model(input_ids=inputs, attention_mask=mask)[0]
        if places is not None:
            hidden = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))
        for name, child in self.inner.named_children():
            if name != self.inner.base_model_prefix:
                hidden = child(hidden)
        logits: Tensor = hidden
        return logits


class LabelModel(EncoderModel):
    """Tells the label of a text: the form ``classify``."""

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats of the labels and their number."""
        targets = batch["targets"]
        logits = self(batch["inputs"], lengths=batch["lengths"])
        total = functional.cross_entropy(
            logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, (targets != IGNORE_INDEX).sum()

    def forward(self, inputs: Tensor, *, lengths: Tensor) -> Tensor:
        """Return logits [rows, labels]."""
        mask = within(lengths, inputs.shape[1])
        logits: Tensor = self.inner(input_ids=inputs, attention_mask=mask).logits
        return logits

    def labels(self, batch: Batch) -> Tensor:
        """Return the likeliest label of each text, int64 [rows]."""
        with torch.inference_mode():
            found: Tensor = self(batch["inputs"], lengths=batch["lengths"]).argmax(-1)
        return found
