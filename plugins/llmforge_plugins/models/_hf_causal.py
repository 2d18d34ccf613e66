"""A causal language model of Hugging Face behind llmforge's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX, Batch, RunContext
from llmforge_plugins.models._cross_entropy import (
    layer_log_probs,
    linear_cross_entropy,
    linear_log_probs,
)
from llmforge_plugins.models._hf_cache import HuggingFaceCache
from llmforge_plugins.models._hf_load import load
from llmforge_plugins.models._hf_module import HuggingFaceModule
from llmforge_plugins.models._linear import has_matrix

_OWN_CODE = "transformers."


def build(options: Any, run: RunContext, *, vocab_size: int, name: str) -> CausalModel:
    """Return the model of ``hf-causal``; errors as :func:`load`."""
    loaded = load(options, run, auto_class="AutoModelForCausalLM", vocab_size=vocab_size, name=name)
    return CausalModel(loaded.model, context=options.context, resolution=loaded.resolution)


class CausalModel(HuggingFaceModule):
    """Implements :class:`llmforge.interfaces.LanguageModel`."""

    def __init__(self, inner: Any, *, context: int, resolution: dict[str, Any]) -> None:
        super().__init__(inner, context=context, resolution=resolution)
        self.window = _window(inner.config)
        self._logit_scale = _logit_scale(inner)
        if not self._attends_freely():
            self.new_cache = None  # type: ignore[assignment, method-assign]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats and the number of scored targets.

        A batch may have ``segments`` and ``positions``, int64 of shape [rows, length]: attention
        then stays within a segment, and positions count from its beginning.
        """
        targets = batch["targets"].flatten()
        head = self._plain_head()
        if head is not None and not isinstance(head, nn.Linear):
            total = -self._by_layer(batch, head, targets).sum()
        elif head is None:
            total = functional.cross_entropy(
                self._logits(batch), targets, ignore_index=IGNORE_INDEX, reduction="sum"
            )
        else:
            total = linear_cross_entropy(*self._last_layer(batch, head), targets)
        return total, (targets != IGNORE_INDEX).sum()

    def sequence_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each sequence's summed log-probability of scored targets, and their number."""
        targets = batch["targets"].flatten()
        head = self._plain_head()
        if head is not None and not isinstance(head, nn.Linear):
            found = self._by_layer(batch, head, targets)
        elif head is None:
            found = -functional.cross_entropy(
                self._logits(batch), targets, ignore_index=IGNORE_INDEX, reduction="none"
            )
        else:
            found = linear_log_probs(*self._last_layer(batch, head), targets)
        scored = batch["targets"] != IGNORE_INDEX
        return found.view(scored.shape).sum(1), scored.sum(1)

    def _logits(self, batch: Batch) -> Tensor:
        """Return all logits in fp32, [positions, vocabulary], as the model itself makes them."""
        masked = self._masked(batch)
        found = self.inner(input_ids=batch["inputs"], use_cache=False, **masked).logits
        return found.flatten(0, 1).float()

    def _last_layer(self, batch: Batch, head: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return the inputs of the output matrix, [positions, width], and the matrix."""
        return _as_product(self._hidden(batch), head, scale=self._logit_scale or 1.0)

    def _by_layer(self, batch: Batch, head: nn.Module, targets: Tensor) -> Tensor:
        """Return the log-probability of each target by an output layer without a matrix."""
        scale = self._logit_scale or 1.0
        return layer_log_probs(self._hidden(batch), lambda part: head(part) * scale, targets)

    def _hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states, [positions, width]."""
        base, masked = self.inner.base_model, self._masked(batch)
        hidden: Tensor = base(input_ids=batch["inputs"], use_cache=False, **masked)[0]
        return hidden.flatten(0, 1)

    def forward(self, inputs: Tensor, *, cache: HuggingFaceCache | None = None) -> Tensor:
        """Return logits [rows, positions, vocabulary]; with a cache, extend it.

        Raises:
            ValueError: the inputs exceed the context or the cache.
        """
        if inputs.shape[1] > self.context:
            raise ValueError(
                f"{inputs.shape[1]} positions exceed the model's context of {self.context}"
            )
        if cache is None:
            logits: Tensor = self.inner(input_ids=inputs, use_cache=False).logits
            return logits
        positions, seen = cache.begin(inputs, context=self.context)
        continued = self.inner(
            input_ids=inputs,
            position_ids=positions,
            attention_mask=self._as_mask(seen),
            past_key_values=cache,
            use_cache=True,
        )
        return continued.logits

    def new_cache(self, rows: int, length: int) -> HuggingFaceCache:
        """Return an empty cache for ``rows`` sequences of at most ``length`` positions."""
        layers = self.config.get_text_config().num_hidden_layers
        return HuggingFaceCache(layers=layers, rows=rows, length=length)

    def flops_per_token(self) -> float:
        """Return the floating-point operations of forward and backward for one token.

        Attention over the whole context is added to those of the matrices (Chowdhery et al.,
        "PaLM", 2022, appendix B).
        """
        text = self.config.get_text_config()
        attention = 12.0 * text.num_hidden_layers * text.hidden_size * self.context
        return self.matrix_flops() + attention

    def _plain_head(self) -> nn.Module | None:
        """Return the output layer if logits are what it makes of the last hidden states."""
        head = self.inner.get_output_embeddings()
        if self._logit_scale is None or head is None:
            return None
        return head if isinstance(head, nn.Linear) or not has_matrix(head) else None

    def _masked(self, batch: Batch) -> dict[str, Tensor]:
        if "segments" not in batch:
            return {}  # rows are padded on the right, which causal attention never sees
        if not self._attends_freely():
            raise ValueError(
                f"a model of the type '{self.config.model_type}' cannot keep the examples of a "
                "packed row apart; set packing = false"
            )
        segments = batch["segments"]
        length = segments.shape[1]
        same = segments[:, :, None] == segments[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        mask = self._as_mask((same & causal)[:, None])
        return {"attention_mask": mask, "position_ids": batch["positions"]}

    def _as_mask(self, seen: Tensor) -> Tensor:
        """Return a mask as the attention kernel takes it: bool, or what is added to scores."""
        if self.config._attn_implementation != "eager":
            return seen
        dtype = self.inner.dtype
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return added.masked_fill_(~seen, torch.finfo(dtype).min)

    def _attends_freely(self) -> bool:
        """Return whether every layer is attention over all that came before."""
        if getattr(self.inner, "_is_stateful", False):
            return False
        return self.window is None or self.window >= self.context


def _as_product(hidden: Tensor, head: nn.Linear, *, scale: float) -> tuple[Tensor, Tensor]:
    """Return two matrices whose product is ``scale * head(hidden)``, the second transposed."""
    weight = head.weight
    if scale != 1.0:
        hidden = hidden * scale
    if head.bias is not None:
        # a bias is the weight of an input that is always 1
        hidden = torch.cat([hidden, hidden.new_full((hidden.shape[0], 1), scale)], dim=1)
        weight = torch.cat([weight, head.bias[:, None]], dim=1)
    return hidden, weight


def _window(config: Any) -> int | None:
    """Return how many positions the layers of a model with sliding windows look back."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return 0
    if kinds == {"full_attention"} or not getattr(text, "use_sliding_window", True):
        return None
    return getattr(text, "sliding_window", None) or getattr(text, "window_size", None)


def _logit_scale(inner: Any) -> float | None:
    """Return what logits are multiplied by after the output matrix; None when that is not all.

    Logits are then computed in full by the model itself: also for code that is not transformers'
    own, and where more than the base model and one matrix takes part.
    """
    if not type(inner).__module__.startswith(_OWN_CODE):
        return None
    head = inner.get_output_embeddings()
    if [child for child in inner.children() if child not in (head, inner.base_model)]:
        return None
    if head not in list(inner.children()):
        return None
    values = inner.config.get_text_config().to_dict()
    scale = values.pop("logit_scale", None) or 1.0  # Cohere
    scale /= values.pop("logits_scaling", None) or 1.0  # Granite
    special = [
        key
        for key, value in values.items()
        if ("logit" in key or "lm_head" in key) and not key.startswith("output_router")
        if value not in (None, False, 0, 1, 1.0)
    ]
    return None if special else float(scale)
