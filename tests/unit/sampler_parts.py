"""Small models, a tokenizer of bytes and a call of the sampler, for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llmforge.interfaces import Completion, GenerationRequest
from llmforge.plugins import build_manager, call_factory
from llmforge_plugins.generation.sampler import Sampler

PROMPTS = ["The history of", "a", "Once upon", "zebra crossing"]


class ByteTokens:
    """Bytes as ids; 256 is the end of text."""

    vocab_size = 257
    fingerprint = "bytes"

    def __init__(self, eos_id: int | None = 256) -> None:
        self.eos_id = eos_id

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")


class ToyCache:
    """Keys and values [rows, length, width] and the number of positions that count per row."""

    def __init__(self, rows: int, length: int, width: int) -> None:
        self.keys = torch.zeros(rows, length, width)
        self.values = torch.zeros(rows, length, width)
        self.lengths = torch.zeros(rows, dtype=torch.int64)

    def set_lengths(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths.clone()


class SelectingCache(ToyCache):
    """A cache whose rows can be picked."""

    def select(self, rows: torch.Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.lengths = self.lengths[rows]


class Toy(nn.Module):
    """One attention layer with learned positions; remembers the shapes it was fed."""

    cache_type: type[ToyCache] = ToyCache

    def __init__(self, *, context: int = 48, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.context = context
        self.tokens = nn.Embedding(257, width)
        self.positions = nn.Embedding(context, width)
        self.mix = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 257)
        self.fed: list[tuple[int, int]] = []

    def new_cache(self, rows: int, length: int) -> ToyCache:
        assert length <= self.context
        return self.cache_type(rows, length, self.tokens.embedding_dim)

    def forward(self, inputs: torch.Tensor, *, cache: ToyCache | None = None) -> torch.Tensor:
        rows, count = inputs.shape
        self.fed.append((rows, count))
        past = cache.lengths if cache else torch.zeros(rows, dtype=torch.int64)
        places = past[:, None] + torch.arange(count)
        x = self.tokens(inputs) + self.positions(places)
        query, key, value = self.mix(x).chunk(3, dim=-1)
        if cache:
            at = (torch.arange(rows)[:, None], places)
            cache.keys[at], cache.values[at] = key, value
            key, value = cache.keys, cache.values
            cache.lengths = past + count
        visible = torch.arange(key.shape[1])[None, None, :] <= places[:, :, None]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.head(x + mixed) * 3


class Selecting(Toy):
    """With a cache whose rows can be picked."""

    cache_type = SelectingCache


class Uncached(Toy):
    """Without a cache."""

    new_cache = None  # type: ignore[assignment]


class Script(nn.Module):
    """Says given bytes (and ids) after a prompt of one token, whatever the prompt is."""

    context = 1000

    def __init__(self, *script: bytes | int) -> None:
        super().__init__()
        self.script = [
            token for part in script for token in (part if isinstance(part, bytes) else [part])
        ]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*inputs.shape, 257)
        for place in range(inputs.shape[1]):
            logits[:, place, self.script[place % len(self.script)]] = 50.0
        return logits


def generate(
    model: nn.Module,
    prompts: Sequence[str] = PROMPTS,
    *,
    samples: int = 1,
    seed: int = 0,
    on_text: Any = None,
    tokenizer: ByteTokens | None = None,
    notices: list[str] | None = None,
    **options: Any,
) -> list[Completion]:
    component = Sampler(Sampler.Options(**{"max_new_tokens": 30, "temperature": 1.0, **options}))
    run = type("Run", (), {"notice": (notices if notices is not None else []).append})
    generator = call_factory(
        build_manager([component]),
        "forge_build_generator",
        run=run,
        model=model,
        tokenizer=tokenizer or ByteTokens(),
    )
    request = GenerationRequest(prompts=prompts, samples=samples, seed=seed, on_text=on_text)
    return generator.generate(request)


def texts(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]
