"""The GPT-NeoX variant of the transformer against Hugging Face's, with the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformer_parts import VOCABULARY, small_shape, tokens
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from llmforge_plugins.models import _attention
from llmforge_plugins.models._packed import PackedWeights
from llmforge_plugins.models._transformer import TransformerModel
from llmforge_plugins.models.transformer import Transformer

HEADS = 2  # of 16 elements each, so that a quarter of them is 2 pairs


def theirs(*, parallel: bool = True) -> GPTNeoXForCausalLM:
    """Return Hugging Face's model with weights, scales and biases far from their start."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=128,
        max_position_embeddings=12,
        hidden_act="gelu",
        rotary_pct=0.25,
        rotary_emb_base=10_000,
        layer_norm_eps=1e-5,
        use_parallel_residual=parallel,
        tie_word_embeddings=False,
    )
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    torch.manual_seed(2)
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ours(theirs: GPTNeoXForCausalLM, *, parallel: bool = True) -> TransformerModel:
    """Return the transformer of this project with the weights of ``theirs``."""
    options = Transformer.Options(
        preset="neox-1b", layers=2, width=32, heads=HEADS, context=12, parallel_residual=parallel
    )
    model = TransformerModel(options.shape(), vocab_size=VOCABULARY).eval()
    model.load_state_dict(_renamed(theirs.state_dict()))
    return model


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return Hugging Face's weights under this project's names and in its order.

    Theirs has queries, keys and values side by side within each head; ours has all queries first.
    """
    parts = {
        "attention_norm": "input_layernorm",
        "attention.qkv": "attention.query_key_value",
        "attention.out": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
    }
    names = {
        "embedding.weight": "gpt_neox.embed_in.weight",
        "norm.weight": "gpt_neox.final_layer_norm.weight",
        "norm.bias": "gpt_neox.final_layer_norm.bias",
        # "embed_out" before version 5, "lm_head" since
        "head.weight": next(name for name in state if not name.startswith("gpt_neox.")),
    }
    for layer in range(2):
        for own, their in parts.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{own}.{kind}"] = f"gpt_neox.layers.{layer}.{their}.{kind}"
    found = {own: state[their] for own, their in names.items()}
    for name in [name for name in found if ".qkv." in name]:
        whole = found[name]
        found[name] = whole.unflatten(0, (HEADS, 3, -1)).transpose(0, 1).reshape(whole.shape)
    return found


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("longest_explicit", [0, 512])
def test_logits_are_those_of_hugging_faces_model(
    parallel: bool, longest_explicit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_attention, "_LONGEST_EXPLICIT", longest_explicit)
    reference = theirs(parallel=parallel)
    model, inputs = ours(reference, parallel=parallel), tokens(3, 12)
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs), reference(inputs).logits, rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_are_those_of_hugging_faces_model() -> None:
    reference = theirs()
    model, inputs, targets = ours(reference), tokens(2, 12), tokens(2, 12, seed=4)
    loss, count = model.loss({"inputs": inputs, "targets": targets})
    logits = reference(inputs).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss / count, expected, rtol=1e-5, atol=1e-5)
    (loss / count).backward()
    expected.backward()
    wanted = _renamed({name: p.grad for name, p in reference.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_with_a_cache_and_packed_weights_gives_hugging_faces_logits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[bool] = []
    linear = PackedWeights.linear

    def counted(self: PackedWeights, *arguments: Tensor) -> Tensor:
        product = linear(self, *arguments)
        packed.append(bool(self._packed))
        return product

    monkeypatch.setattr(PackedWeights, "linear", counted)
    reference, inputs = theirs(), tokens(8, 12)
    model = ours(reference).to(dtype)
    lengths = torch.tensor([5, 3, 5, 1, 2, 4, 5, 3])
    with torch.inference_mode():
        cache = model.new_cache(8, 12)
        model(inputs[:, :5], cache=cache)
        cache.set_lengths(lengths)
        rows = torch.arange(8)
        for new in range(7):
            found = model(inputs[rows, lengths + new][:, None], cache=cache)[:, 0]
            for row in range(8):
                whole = inputs[row : row + 1, : int(lengths[row]) + new + 1]
                torch.testing.assert_close(
                    found[row].float(),
                    reference(whole).logits[0, -1],
                    rtol=1e-3,
                    atol=1e-3 if dtype == torch.float32 else 0.15,
                )
    if torch.ops.mkldnn._is_mkldnn_bf16_supported() and dtype == torch.bfloat16:
        assert all(packed)


def test_a_part_of_each_head_has_no_position() -> None:
    shape = small_shape(rotary_fraction=0.5)
    assert (shape.head_size, shape.rotary_size) == (8, 4)
    heads = torch.randn(1, 12, 4, 8)
    turned = _attention.rotate(heads, *_attention.rotary_tables(4, 12, 10_000.0))
    assert torch.equal(turned[..., 4:], heads[..., 4:])
    assert not torch.allclose(turned[:, 1:, :, :4], heads[:, 1:, :, :4])


def test_the_presets_have_the_customary_sizes() -> None:
    large, small = (Transformer.Options(preset=name).shape() for name in ("neox-1.2b", "neox-1b"))
    assert (large.layers, large.width, large.heads, large.head_size) == (24, 2048, 16, 128)
    assert (large.feed_forward, large.rotary_size) == (8192, 32)
    assert large.parameters(50_257) == 1_414_455_296
    assert large.block_parameters() == 1_208_598_528
    assert small.parameters(50_257) == 1_011_589_120
