"""Examples that share rows: each is trained as if it were alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformer_parts import VARIANTS, VOCABULARY, small_model, tokens

from llmforge.interfaces import IGNORE_INDEX, Batch
from llmforge_plugins.models import _attention, _segments
from llmforge_plugins.models._transformer import TransformerModel

ROWS = [[5, 3, 2], [4, 4], [11], [1, 8]]
"""Inputs of each example, by row; the context is 12."""
ALONE = [length for row in ROWS for length in row]


def example(number: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of an example, the first half of them unscored."""
    ids = tokens(1, ALONE[number] + 1, seed=number)[0]
    targets = ids[1:].clone()
    targets[: len(targets) // 2] = IGNORE_INDEX
    return ids[:-1], targets


def packed_batch() -> dict[str, Tensor]:
    """Return all examples in rows of 12; what is in the padding would show if it were read."""
    shape = (len(ROWS), 12)
    batch = {
        "inputs": tokens(*shape, seed=99),
        "targets": torch.full(shape, IGNORE_INDEX),
        "segments": torch.zeros(shape, dtype=torch.int64),
        "positions": torch.zeros(shape, dtype=torch.int64),
    }
    number = 0
    for row, lengths in enumerate(ROWS):
        at = 0
        for segment, length in enumerate(lengths):
            place = (row, slice(at, at + length))
            batch["inputs"][place], batch["targets"][place] = example(number)
            batch["segments"][place], batch["positions"][place] = segment, torch.arange(length)
            at, number = at + length, number + 1
        batch["segments"][row, at:] = len(lengths)
        batch["positions"][row, at:] = torch.arange(12 - at)
    return batch


def padded_batch() -> dict[str, Tensor]:
    """Return the same examples, each in a row of its own."""
    inputs = tokens(len(ALONE), 12, seed=98)
    targets = torch.full_like(inputs, IGNORE_INDEX)
    for number, length in enumerate(ALONE):
        inputs[number, :length], targets[number, :length] = example(number)
    return {"inputs": inputs, "targets": targets}


def learned(model: TransformerModel, *batches: Batch) -> tuple[float, list[Tensor]]:
    """Return the summed loss and the gradients of batches, one after the other."""
    model.zero_grad()
    total, scored = 0.0, 0
    for batch in batches:
        loss, count = model.loss(batch)
        (loss / 20).backward()
        total, scored = total + loss.item(), scored + int(count)
    assert scored == sum(length - length // 2 for length in ALONE)
    return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def alone(model: TransformerModel) -> tuple[float, list[Tensor]]:
    """Return what is learned of the examples one by one, by the rows' own attention."""
    examples = [example(number) for number in range(len(ALONE))]
    return learned(model, *({"inputs": i[None], "targets": t[None]} for i, t in examples))


def parts(batch: Batch, size: int) -> list[Batch]:
    rows = len(batch["inputs"])
    return [
        {name: value[at : at + size] for name, value in batch.items()}
        for at in range(0, rows, size)
    ]


def assert_equal(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.fixture(params=["blocks", "blocks and PyTorch's kernel", "mask"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How attention is computed: as on a CPU, with long or dropped out attention, elsewhere."""
    if request.param == "mask":
        monkeypatch.setattr(_segments, "can_be_looked_at", lambda _: False)
    elif request.param != "blocks":
        monkeypatch.setattr(_attention, "_LONGEST_EXPLICIT", 0)
    monkeypatch.setattr(_segments, "_SHORT", 3)
    return str(request.param)


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_packed_rows_teach_what_their_examples_do(variant: str, size: int, way: str) -> None:
    model = small_model(**VARIANTS[variant])
    assert_equal(learned(model, *parts(packed_batch(), size)), alone(model))


def test_a_preset_learns_the_same_from_packed_rows() -> None:
    from llmforge_plugins.models.transformer import Transformer

    shape = Transformer.Options(preset="nano", context=12).shape()
    torch.manual_seed(0)
    model = TransformerModel(shape, vocab_size=VOCABULARY)
    assert_equal(learned(model, packed_batch()), alone(model))


def test_batches_have_few_sizes() -> None:
    counts = [_segments.rounded_up(count) for count in range(1, 4097)]
    assert all(0 <= found - count <= count / 8 for count, found in enumerate(counts, 1))
    assert len(set(counts)) <= 12 * 8


@pytest.mark.parametrize("size", [1, 3, len(ALONE)])
def test_padding_is_left_out_of_rows_that_are_not_packed(size: int) -> None:
    model = small_model(**VARIANTS["gpt2"])
    batch = padded_batch()
    found = _segments.find_segments(batch)
    assert found is not None and found.index is not None
    assert found.filler == 2 and len(found.index) == sum(ALONE) + 2
    assert_equal(learned(model, *parts(batch, size)), alone(model))


def test_full_rows_are_computed_as_they_are() -> None:
    ids = tokens(3, 13)
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:].clone()}
    assert _segments.find_segments(batch) is None
    batch["targets"][0, :6] = IGNORE_INDEX  # a prompt: what follows it reads it
    assert _segments.find_segments(batch) is None


@pytest.mark.parametrize("masked", [True, False])
def test_nothing_but_its_own_example_changes_a_loss(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if masked:
        monkeypatch.setattr(_segments, "can_be_looked_at", lambda _: False)
    model = small_model()
    batch = packed_batch()
    other = {name: value.clone() for name, value in batch.items()}
    second = (other["segments"] == 1) | (other["targets"] == IGNORE_INDEX)
    first = other["segments"] == 0
    other["inputs"][second & ~first] = 0
    for changed in (batch, other):
        changed["targets"] = torch.where(first, changed["targets"], IGNORE_INDEX)
    torch.testing.assert_close(model.loss(batch)[0], model.loss(other)[0])


def test_a_batch_in_which_nothing_is_scored_has_no_loss() -> None:
    batch = packed_batch()
    batch["targets"] = torch.full_like(batch["targets"], IGNORE_INDEX)
    model = small_model()
    loss, count = model.loss(batch)
    loss.backward()
    assert (loss.item(), int(count)) == (0.0, 0)
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_dropout_drops_within_examples_and_not_in_evaluation(way: str) -> None:
    model = small_model(dropout=0.3)
    batch = packed_batch()
    torch.manual_seed(0)
    first = learned(model, batch)
    torch.manual_seed(0)
    assert_equal(learned(model, batch), first)
    assert learned(model, batch)[0] != first[0]
    model.eval()
    assert_equal(learned(model, batch), alone(model))


def test_bf16_packs_too() -> None:
    model = small_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = learned(model, packed_batch())[0], alone(model)[0]
    assert found == pytest.approx(expected, rel=2e-2)


def test_a_compiler_sees_fixed_shapes() -> None:
    model = small_model()
    compiled = torch.compile(model.loss, backend="eager", fullgraph=True)
    found, count = compiled(packed_batch())
    assert found.item() == pytest.approx(alone(model)[0], rel=1e-5)
    assert int(count) == sum(length - length // 2 for length in ALONE)


def kernel_for_any_length(
    queries: Tensor, keys: Tensor, values: Tensor, ends: Tensor, *_: Any, enable_gqa: bool = False
) -> Tensor:
    """Compute what PyTorch's kernel on a GPU is documented to, sequence by sequence."""
    parts = []
    for start, end in itertools.pairwise(ends.tolist()):
        heads = (part[start:end].transpose(0, 1) for part in (queries, keys, values))
        mixed = functional.scaled_dot_product_attention(
            *heads, is_causal=True, enable_gqa=enable_gqa
        )
        parts.append(mixed.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_kernel_for_any_length_is_told_where_examples_begin(
    kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segments, "_variable_length", lambda: kernel_for_any_length)
    batch = packed_batch()
    where = (batch["segments"], batch["positions"])
    sequences, masked = _segments._Sequences(*where), _segments._Masked(*where)
    assert sequences.ends.dtype == torch.int32
    qkv = torch.randn(len(ROWS), 12, 4 + 2 * kv_heads, 8, dtype=torch.bfloat16)
    cos, sin = _attention.rotary_tables(8, 12, 10_000.0)
    rotary = sequences.angles(cos.bfloat16(), sin.bfloat16())
    found = sequences.attention(qkv, 4, rotary, dropout=0.0)
    expected = masked.attention(qkv, 4, rotary, dropout=0.0)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    in_fp32 = sequences.attention(qkv.float(), 4, None, dropout=0.0)  # which the kernel has not
    torch.testing.assert_close(in_fp32, masked.attention(qkv.float(), 4, None, dropout=0.0))
