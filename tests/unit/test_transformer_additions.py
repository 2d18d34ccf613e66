"""Options of the transformer beyond the usual architectures: each with all ways to compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformer_parts import VOCABULARY, small_model, small_shape, tokens

from llmforge.errors import ExportError
from llmforge.interfaces import IGNORE_INDEX
from llmforge_plugins.models._architectures import configuration
from llmforge_plugins.models._cross_entropy import linear_cross_entropy, linear_log_probs
from llmforge_plugins.models._transformer import TransformerModel

ADDITIONS: dict[str, dict[str, Any]] = {
    "relu2": {"activation": "relu2"},
    "value embeddings": {"value_embeddings": 1},
    "grouped value embeddings": {"value_embeddings": 2, "kv_heads": 2},
    "attention gate": {"attention_gate": True},
    "embedding residual": {"embedding_residual": True},
    "skips": {"skips": True},
    "bigrams": {"bigram_embeddings": 97},
    "token shift": {"token_shift": True},
    "softcap": {"logit_softcap": 5.0},
    "all": {
        "activation": "relu2",
        "qk_norm": True,
        "value_embeddings": 2,
        "attention_gate": True,
        "embedding_residual": True,
        "skips": True,
        "bigram_embeddings": 97,
        "token_shift": True,
        "logit_softcap": 5.0,
        "multi_token": 0.5,
    },
}

additions = pytest.mark.parametrize("changes", ADDITIONS.values(), ids=ADDITIONS.keys())


def model_of(changes: dict[str, Any]) -> TransformerModel:
    """Return a model in which nothing that is learned is still zero."""
    model = small_model(**changes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@additions
def test_each_changes_what_is_computed(changes: dict[str, Any]) -> None:
    inputs = tokens(2, 8)
    others = {key: value for key, value in changes.items() if key == "kv_heads"}
    plain, other = (
        small_model(activation="gelu", **others),
        model_of({"activation": "gelu"} | changes),
    )
    other.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(plain(inputs), other(inputs), atol=1e-4)


@additions
def test_parameters_are_counted(changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert model.shape.parameters(VOCABULARY) == counted


@additions
def test_no_position_sees_a_later_one(changes: dict[str, Any]) -> None:
    model, inputs = model_of(changes), tokens(1, 8)
    changed = inputs.clone()
    changed[0, 5] = (changed[0, 5] + 1) % VOCABULARY
    one, other = model(inputs), model(changed)
    assert torch.equal(one[:, :5], other[:, :5])
    assert not torch.allclose(one[:, 5], other[:, 5])


@additions
def test_the_cache_continues_as_if_computed_whole(changes: dict[str, Any]) -> None:
    model, inputs = model_of(changes), tokens(3, 9)
    cache = model.new_cache(3, 12)
    with torch.no_grad():
        whole = model(inputs)
        parts = [
            model(inputs[:, start:end], cache=cache) for start, end in ((0, 4), (4, 5), (5, 9))
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@additions
def test_rows_of_unequal_length_continue_from_their_own(changes: dict[str, Any]) -> None:
    model, inputs = model_of(changes), tokens(2, 9)
    cache = model.new_cache(2, 12)
    with torch.no_grad():
        model(inputs[:, :6], cache=cache)
        cache.set_lengths(torch.tensor([6, 3]))
        fed = torch.stack([inputs[0, 6:8], inputs[1, 3:5]])
        logits = model(fed, cache=cache)
        torch.testing.assert_close(logits[0], model(inputs[:1, :8])[0, 6:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[1], model(inputs[1:, :5])[0, 3:], atol=1e-4, rtol=1e-4)


@additions
def test_rows_join_and_leave_the_cache(changes: dict[str, Any]) -> None:
    model, inputs = model_of(changes), tokens(2, 9)
    with torch.no_grad():
        cache = model.new_cache(0, 12)
        for row, length in ((0, 5), (1, 3)):
            one = cache.new_row(12)
            model(inputs[row : row + 1, :length], cache=one)
            cache.insert(one)
        cache.remove(0)
        logits = model(inputs[1:, 3:4], cache=cache)
        torch.testing.assert_close(logits[0], model(inputs[1:, :4])[0, 3:], atol=1e-4, rtol=1e-4)


@additions
def test_packed_examples_are_computed_as_if_alone(changes: dict[str, Any]) -> None:
    model, rows = model_of(changes).train(), tokens(2, 12)
    lengths = ((5, 7), (4, 8))
    batch = {
        "inputs": rows,
        "targets": tokens(2, 12, seed=4),
        "segments": torch.stack(
            [torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor(pair)) for pair in lengths]
        ),
        "positions": torch.stack(
            [torch.cat([torch.arange(length) for length in pair]) for pair in lengths]
        ),
    }
    packed, _ = model.loss(batch)
    packed.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    apart = torch.zeros(())
    for row, pair in enumerate(lengths):
        for start, end in ((0, pair[0]), (pair[0], 12)):
            loss, _ = model.loss(
                {key: batch[key][row : row + 1, start:end] for key in ("inputs", "targets")}
            )
            loss.backward()
            apart = apart + loss.detach()
    torch.testing.assert_close(packed.detach(), apart, atol=1e-3, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-3, rtol=1e-3)


def test_zero_init_passes_on_what_is_read() -> None:
    model = small_model(zero_init=True)
    inputs = tokens(1, 6)
    x = model.embedding(inputs)
    torch.testing.assert_close(
        model(inputs), functional.linear(model.norm(x), model.embedding.weight)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bounded_loss_has_the_gradients_of_the_plain_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    hidden = (3 * torch.randn(20, 8, dtype=dtype)).requires_grad_()
    weight = torch.randn(VOCABULARY, 8, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (20,))
    targets[3] = IGNORE_INDEX
    logits = 5.0 * torch.tanh(hidden @ weight.T / 5.0)
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    wanted = torch.autograd.grad(expected, (hidden, weight))
    for loss in (
        linear_cross_entropy(hidden, weight, targets, softcap=5.0),
        -linear_log_probs(hidden, weight, targets, softcap=5.0).sum(),
    ):
        torch.testing.assert_close(loss, expected)
        found = torch.autograd.grad(loss, (hidden, weight))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_token_after_the_next_has_a_part_in_gradients_only() -> None:
    batch = {"inputs": tokens(2, 8), "targets": tokens(2, 8, seed=4)}
    losses, gradients = [], []
    for weight in (0.5, 1.0):
        model = small_model(multi_token=weight).train()
        loss, _ = model.loss(batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.embedding.weight.grad)
        expected = model.after(model._stream(batch["inputs"], None, None, None))[:, :-1]
        further = functional.cross_entropy(
            functional.linear(expected, model.embedding.weight).flatten(0, 1),
            batch["targets"][:, 1:].flatten(),
            reduction="sum",
        )
        plain = torch.autograd.grad(further, model.after.map.weight)[0]
        torch.testing.assert_close(
            model.after.map.weight.grad, weight * plain, atol=1e-4, rtol=1e-4
        )
    assert torch.equal(*losses) and not torch.allclose(*gradients)
    assert torch.equal(small_model(multi_token=1.0).eval().loss(batch)[0], losses[0])


@pytest.mark.parametrize("name", [name for name in ADDITIONS if name not in ("relu2", "all")])
def test_what_no_other_library_computes_is_not_exported(name: str) -> None:
    changes = ADDITIONS[name]
    option = next(iter(changes))
    with pytest.raises(ExportError, match=f"model.transformer.{option} = "):
        configuration(small_shape(**changes), vocab_size=VOCABULARY, dtype="float32", tokens={})
    for norm in ("rmsnorm", "layernorm"):
        with pytest.raises(ExportError, match="activation = "):
            configuration(
                small_shape(activation="relu2", norm=norm),
                vocab_size=VOCABULARY,
                dtype="float32",
                tokens={},
            )
