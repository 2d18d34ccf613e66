"""The transformer itself: embedding, blocks, output, loss.

Its layers are in ``_block``. What makes it fast is beside it: ``_linear`` (matrix products),
``_attention``, ``_segments`` (examples that share rows), ``_norm`` and ``_cross_entropy``;
``_cache`` holds keys and values for generation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX, Batch, LinearLayer, Tokenizer, linear_layers
from llmforge_plugins.models._attention import rotary_tables, wide_tables
from llmforge_plugins.models._block import Block, normalisation
from llmforge_plugins.models._cache import KeyValueCache
from llmforge_plugins.models._cross_entropy import (
    layer_log_probs,
    linear_cross_entropy,
    linear_log_probs,
    softcapped,
)
from llmforge_plugins.models._embeddings import (
    BigramEmbedding,
    TokenShift,
    cached_tokens_before,
    tokens_before,
)
from llmforge_plugins.models._kernels import use_kernels
from llmforge_plugins.models._linear import Linear, has_matrix, linear
from llmforge_plugins.models._measure_kernels import measure_kernels
from llmforge_plugins.models._segments import Segments, can_be_looked_at, find_segments, rounded_up
from llmforge_plugins.models._shape import Shape

_INIT_STD = 0.02
_SKIP_SCALE = 0.5  # of skips at first


class TransformerModel(nn.Module):
    """A decoder-only language model; implements :class:`llmforge.interfaces.LanguageModel`.

    Args:
        shape: its sizes and variants.
        vocab_size: tokens it reads and predicts.
    """

    cos: Tensor
    sin: Tensor
    resolution: dict[str, Any]
    """Where the weights came from; only of a model that was not drawn here."""

    def __init__(self, shape: Shape, *, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.context, self.vocab_size = shape, shape.context, vocab_size
        self.embedding = nn.Embedding(vocab_size, shape.width)
        if shape.positions == "learned":
            self.positions = nn.Embedding(shape.context, shape.width)
        else:
            cos, sin = rotary_tables(shape.rotary_size, shape.context, shape.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.drop = nn.Dropout(shape.dropout)
        self.bigrams = self.shift = None
        if shape.bigram_embeddings:
            self.bigrams = BigramEmbedding(shape.bigram_embeddings, shape.width)
        if shape.token_shift:
            self.shift = TokenShift(shape.width)
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(vocab_size, shape.kv_width)
                for layer in range(shape.layers)
                if shape.has_value_embedding(layer)
            }
        )
        self.blocks = nn.ModuleList(Block(shape, layer=layer) for layer in range(shape.layers))
        self.skip_scale: nn.Parameter | None = None
        if shape.skips:
            self.skip_scale = nn.Parameter(torch.full((shape.layers // 2,), _SKIP_SCALE))
        self.after: AfterNext | None = None
        if shape.multi_token:
            self.after = AfterNext(shape)
        self.norm = normalisation(shape)
        self.head: nn.Module | None = None  # the embedding is the output matrix
        if not shape.tie_embeddings:
            self.head = Linear(shape.width, vocab_size, bias=False)
        self._initialise()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in nats and the number of scored targets.

        Positions see those of their own segment only; padding is left out where that is faster.
        The loss of the token after the next has a part in gradients, but none in the value.
        """
        scored = self._to_score(batch)
        count = (batch["targets"] != IGNORE_INDEX).sum()
        weight = self._output_weight()
        if weight is None:
            return -self._log_probs(scored).sum(), count
        bound = self.shape.logit_softcap
        loss = linear_cross_entropy(self.norm(scored.stream), weight, scored.targets, softcap=bound)
        if self.after is not None and self.training:
            hidden = self.after(scored.stream)
            further = linear_cross_entropy(hidden, weight, scored.after, softcap=bound)
            loss = loss + self.shape.multi_token * (further - further.detach())
        return loss, count

    def sequence_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each sequence's summed log-probability of scored targets, and their number."""
        to_score = self._to_score(batch)
        found = self._log_probs(to_score)
        scored = batch["targets"] != IGNORE_INDEX
        if to_score.places is not None:
            found = found.new_zeros(scored.numel()).index_add(0, to_score.places, found)
        return found.view(scored.shape).sum(1), scored.sum(1)

    def _log_probs(self, scored: _Scored) -> Tensor:
        hidden, bound = self.norm(scored.stream), self.shape.logit_softcap
        weight = self._output_weight()
        if weight is None:
            assert self.head is not None
            return layer_log_probs(hidden, self.head, scored.targets, softcap=bound)
        return linear_log_probs(hidden, weight, scored.targets, softcap=bound)

    def _to_score(self, batch: Batch) -> _Scored:
        """Compute a batch, every scored position of it at least."""
        segments = find_segments(batch)
        inputs, targets = batch["inputs"], batch["targets"].flatten()
        before = tokens_before(inputs, segments) if self._looks_back else None
        after = _targets_after(batch).flatten() if self.after is not None else targets
        places = None
        if segments is not None and segments.index is not None:
            places = segments.index
            inputs, targets, after = inputs.flatten()[places][None], targets[places], after[places]
            for each in (targets, after):
                each[len(each) - segments.filler :] = IGNORE_INDEX
        stream = self._stream(inputs, None, segments, before).flatten(0, 1)
        scored = targets != IGNORE_INDEX
        # the logits of other positions are of no use; elsewhere counting them would wait
        if can_be_looked_at(stream) and int(scored.sum()) not in (0, len(scored)):
            index = _chosen(scored)
            places = index if places is None else places.index_select(0, index)
            stream = stream.index_select(0, index)
            targets, after = targets.index_select(0, index), after.index_select(0, index)
        return _Scored(stream, targets, after, places)

    def forward(self, inputs: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """Return logits [rows, positions, vocabulary]; with a cache, extend it."""
        before = tokens_before(inputs, None) if self._looks_back and cache is None else None
        hidden = self.norm(self._stream(inputs, cache, None, before))
        packed = None if cache is None else cache.weights
        if self.head is not None:
            logits: Tensor = self.head(hidden, packed)
        else:
            multiply = linear if packed is None else packed.linear
            logits = multiply(hidden, self.embedding.weight)
        return softcapped(logits, self.shape.logit_softcap)

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty cache for ``rows`` sequences of at most ``length`` positions."""
        layers = self.shape.layers + self._looks_back  # one more holds the tokens themselves
        return KeyValueCache(layers=layers, rows=rows, length=length)

    def linear_layers(self) -> dict[str, LinearLayer]:
        """Return the layers that can be replaced, a tied output layer among them."""
        found = linear_layers(self)
        if self.head is None:
            found["head"] = LinearLayer(weight=self.embedding.weight, bias=None)
        return found

    def measure_kernels(
        self, *, rows: int, length: int, bf16: bool, seconds: float
    ) -> dict[str, dict[str, float]]:
        """Return how long each way to compute its parts takes here, in milliseconds."""
        weight = self._output_weight()
        output = self.embedding.weight if weight is None else weight
        return measure_kernels(
            self, self.shape, output, rows=rows, length=length, bf16=bf16, seconds=seconds
        )

    def use_kernels(self, chosen: Mapping[str, str]) -> None:
        """Compute these parts in these ways, the others as usual."""
        use_kernels(chosen)

    @property
    def architecture(self) -> dict[str, Any]:
        """Sizes and variants, presets resolved."""
        return {**dataclasses.asdict(self.shape), "vocab_size": self.vocab_size}

    def save_hugging_face(
        self, directory: Path, *, tokenizer: Tokenizer, max_shard_size: int
    ) -> None:
        """Write the model as the Llama, Qwen, GPT-2 or GPT-NeoX that it equals.

        Raises:
            ExportError: it equals none; the message names the option in the way.
        """
        from llmforge_plugins.models._hf_folder import save_transformer

        save_transformer(
            self.state_dict(),
            self.shape,
            directory,
            tokenizer=tokenizer,
            max_shard_size=max_shard_size,
        )

    def flops_per_token(self) -> float:
        """Return the floating-point operations of forward and backward for one token.

        A weight that is frozen needs no gradient, two operations less.
        """
        output = self._output_weight()
        frozen = sum(
            weight.numel()
            for weight in (*self.blocks.parameters(), output)
            if weight is not None
            if weight.dim() > 1 and not weight.requires_grad
        )
        return self.shape.flops_per_token(self.vocab_size) - 2.0 * frozen

    def _stream(
        self,
        inputs: Tensor,
        cache: KeyValueCache | None,
        segments: Segments | None,
        before: Tensor | None,
    ) -> Tensor:
        """Return the residual stream [rows, positions, width] after the last layer."""
        length = inputs.shape[1] if segments is None else segments.longest
        if length > self.context:
            raise ValueError(f"{length} positions exceed the model's context of {self.context}")
        step = None
        positions: Tensor | slice = slice(0, length)
        if cache is not None:
            step = cache.begin(length, context=self.context, device=inputs.device)
            positions = step.positions
            if self._looks_back:
                before = cached_tokens_before(inputs, step, layer=self.shape.layers)
        elif segments is not None:
            positions = segments.positions
        x = self._embedded(inputs, before)
        angles = None
        if self.shape.positions == "learned":
            x = x + self._learned(positions)
        else:
            dtype = _compute_dtype(x)
            if segments is None:
                angles = self.cos[positions].to(dtype), self.sin[positions].to(dtype)
            else:
                angles = segments.angles(self.cos.to(dtype), self.sin.to(dtype))
            if cache is not None:
                angles = wide_tables(*angles)
        x = self.drop(x)
        embedded, middle = x, self.shape.layers // 2
        earlier: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if self.skip_scale is not None and layer >= self.shape.layers - middle:
                x = x + self.skip_scale[len(earlier) - 1] * earlier.pop()
            value = None
            if str(layer) in self.value_embeddings:
                value = self.value_embeddings[str(layer)](inputs)
            x = block(x, angles, step, segments, embedded=embedded, value=value)
            if self.skip_scale is not None and layer < middle:
                earlier.append(x)
        return x

    @property
    def _looks_back(self) -> bool:
        """Return whether embeddings depend on the token before."""
        return self.bigrams is not None or self.shift is not None

    def _embedded(self, inputs: Tensor, before: Tensor | None) -> Tensor:
        x: Tensor = self.embedding(inputs)
        if before is None:
            return x
        if self.shift is not None:
            x = self.shift(x, before, self.embedding.weight)
        if self.bigrams is not None:
            x = x + self.bigrams(inputs, before)
        return x

    def _learned(self, positions: Tensor | slice) -> Tensor:
        table = self.positions.weight
        if isinstance(positions, slice):
            return table[positions]
        return functional.embedding(positions, table)  # its gradient is much faster

    def _output_weight(self) -> Tensor | None:
        """Return the output matrix; None where a quantised layer took its place."""
        if self.head is None:
            return self.embedding.weight
        matrix: Any = self.head.weight
        return matrix if has_matrix(self.head) else None

    def _initialise(self) -> None:
        """Draw weights as GPT-2 does (Radford et al. 2019).

        Normal with deviation 0.02; maps that write to the residual stream are scaled down by
        the root of their number, so that its variance does not grow with depth.
        """
        into_residual = ("attention.out.weight", "feed_forward.down.weight")
        for name, parameter in self.named_parameters():
            zeros = name.endswith("bias") or name == "bigrams.embedding.weight"
            zeros = zeros or name.endswith("head_gate")
            if zeros or (self.shape.zero_init and name.endswith(into_residual)):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                scale = math.sqrt(2 * self.shape.layers) if name.endswith(into_residual) else 1.0
                nn.init.normal_(parameter, std=_INIT_STD / scale)


class AfterNext(nn.Module):
    """Reads the residual stream for the token after the next, through the same output matrix.

    Multi-token prediction (Gloeckle et al., "Better & Faster Large Language Models via Multi-token
    Prediction", 2024) with one further token and one linear map for it; of use in training only.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = normalisation(shape)
        self.map = Linear(shape.width, shape.width, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """Return what the output matrix is to read, in the shape of ``stream``."""
        hidden: Tensor = self.map(self.norm(stream))
        return hidden


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What is to be scored.

    Attributes:
        stream: the residual stream [positions, width].
        targets: int64 [positions], ``IGNORE_INDEX`` where unscored.
        after: the same of the token after the next, where that is predicted too.
        places: where the positions are in the flattened batch; None for all as they are.
    """

    stream: Tensor
    targets: Tensor
    after: Tensor
    places: Tensor | None


def _targets_after(batch: Batch) -> Tensor:
    """Return the target after each, ``IGNORE_INDEX`` where its example has ended."""
    after = functional.pad(batch["targets"][:, 1:], (0, 1), value=IGNORE_INDEX)
    segments = batch.get("segments")
    if segments is None:
        return after
    ends = torch.ones_like(segments, dtype=torch.bool)
    torch.ne(segments[:, 1:], segments[:, :-1], out=ends[:, :-1])
    return after.masked_fill(ends, IGNORE_INDEX)


def _chosen(scored: Tensor) -> Tensor:
    """Return where ``scored`` is true and, for a number of rows that occurs again, some others."""
    index, others = scored.nonzero().squeeze(1), (~scored).nonzero().squeeze(1)
    return torch.cat([index, others[: rounded_up(len(index)) - len(index)]])


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of matrix products: autocast's where it is on, else that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
