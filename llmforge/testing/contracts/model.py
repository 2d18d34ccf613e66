"""The contract of the kind ``model``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmforge.component import Component
from llmforge.interfaces import IGNORE_INDEX, HuggingFaceModel, RunContext
from llmforge.testing.context import run_context
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.stand_ins import TinyTokenizer


class ModelContract(Contract):
    """A causal language model with a summed loss, built on any device and saved by name.

    Choose small ``options``: every test builds the model again, for a vocabulary of 257.

    Attributes:
        learning_rate: of the AdamW steps that must lower the loss.
    """

    learning_rate = 3e-3

    @pytest.fixture
    def run(self, plugin: Component, tmp_path: Path) -> RunContext:
        """A run with the model's own context."""
        return run_context(tmp_path, context=plugin.options.context)

    @pytest.fixture
    def model(self, plugin: Component, run: RunContext) -> Any:
        """The model in evaluation mode."""
        return self._build(plugin, run, seed=1).eval()

    @pytest.fixture
    def batch(self, model: Any) -> dict[str, Tensor]:
        """Two sequences, some targets of which are not scored."""
        tokens = _tokens(2, min(model.context, 12) + 1)
        targets = tokens[:, 1:].clone()
        targets[0, :3] = IGNORE_INDEX
        return {"inputs": tokens[:, :-1].contiguous(), "targets": targets}

    def _build(self, plugin: Component, run: RunContext, *, seed: int) -> Any:
        torch.manual_seed(seed)
        return build(plugin, "forge_build_model", run=run, tokenizer=TinyTokenizer())

    def test_its_context_is_the_option(self, plugin: Component, model: Any) -> None:
        assert model.context == plugin.options.context

    def test_logits_have_a_value_for_every_token_at_every_position(
        self, model: Any, batch: dict[str, Tensor]
    ) -> None:
        logits = model(batch["inputs"])
        assert logits.shape == (*batch["inputs"].shape, TinyTokenizer.vocab_size)
        assert torch.isfinite(logits).all()

    def test_it_takes_sequences_from_one_token_to_its_context(self, model: Any) -> None:
        for length in (1, model.context):
            assert model(_tokens(1, length)).shape[1] == length

    def test_the_loss_is_the_summed_cross_entropy_and_the_count_of_scored_targets(
        self, model: Any, batch: dict[str, Tensor]
    ) -> None:
        total, count = model.loss(batch)
        assert total.shape == count.shape == ()
        assert int(count) == int((batch["targets"] != IGNORE_INDEX).sum())
        expected = functional.cross_entropy(
            model(batch["inputs"]).float().flatten(0, 1),
            batch["targets"].flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )
        torch.testing.assert_close(total.float(), expected, rtol=1e-4, atol=1e-3)

    def test_the_losses_of_micro_batches_add_up(self, model: Any, batch: dict[str, Tensor]) -> None:
        whole, count = model.loss(batch)
        halves = [
            model.loss({name: value[row : row + 1] for name, value in batch.items()})
            for row in range(2)
        ]
        torch.testing.assert_close(sum(loss for loss, _ in halves), whole, rtol=1e-4, atol=1e-3)
        assert sum(int(number) for _, number in halves) == int(count)

    def test_a_batch_without_scored_targets_has_no_loss(
        self, model: Any, batch: dict[str, Tensor]
    ) -> None:
        nothing = torch.full_like(batch["targets"], IGNORE_INDEX)
        total, count = model.loss({**batch, "targets": nothing})
        assert (float(total.detach()), int(count)) == (0.0, 0)

    def test_a_fresh_model_is_no_worse_than_knowing_nothing(
        self, model: Any, batch: dict[str, Tensor]
    ) -> None:
        total, count = model.loss(batch)
        assert float(total.detach() / count) < 1.5 * math.log(TinyTokenizer.vocab_size)

    def test_no_position_sees_a_later_token(self, model: Any) -> None:
        length = min(model.context, 12)
        tokens = _tokens(1, length)
        changed = tokens.clone()
        changed[0, length // 2 :] = (changed[0, length // 2 :] + 1) % 256
        kept = slice(0, length // 2)
        torch.testing.assert_close(
            model(changed)[:, kept], model(tokens)[:, kept], rtol=1e-4, atol=1e-5
        )

    def test_sequences_of_a_batch_do_not_see_each_other(self, model: Any) -> None:
        tokens = _tokens(3, min(model.context, 12))
        torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]), rtol=1e-4, atol=1e-5)

    def test_every_parameter_gets_a_finite_gradient(
        self, model: Any, batch: dict[str, Tensor]
    ) -> None:
        model.train()
        model.loss(batch)[0].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"

    def test_it_learns_a_batch(self, model: Any, batch: dict[str, Tensor]) -> None:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        losses = []
        for _ in range(15):
            total, count = model.loss(batch)
            (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(total.detach()))
        assert losses[-1] < 0.9 * losses[0]

    def test_equal_seeds_build_equal_models(
        self, plugin: Component, run: RunContext, model: Any
    ) -> None:
        again = dict(self._build(plugin, run, seed=1).named_parameters())
        assert all(torch.equal(value, again[name]) for name, value in model.named_parameters())

    def test_weights_moved_by_name_make_the_same_model(
        self, plugin: Component, run: RunContext, model: Any, batch: dict[str, Tensor]
    ) -> None:
        other = self._build(plugin, run, seed=2).eval()
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                parameter.copy_(weights[name])
        assert torch.equal(other(batch["inputs"]), model(batch["inputs"]))

    def test_on_the_meta_device_it_has_the_same_parameters_without_memory(
        self, plugin: Component, run: RunContext, model: Any
    ) -> None:
        with torch.device("meta"):
            outline = dict(self._build(plugin, run, seed=1).named_parameters())
        assert all(parameter.is_meta for parameter in outline.values())
        assert {name: value.shape for name, value in outline.items()} == {
            name: value.shape for name, value in model.named_parameters()
        }

    def test_it_knows_its_cost(self, model: Any) -> None:
        cost = model.flops_per_token()
        assert math.isfinite(cost)
        assert cost > 0

    def test_examples_that_share_a_row_are_learned_as_if_alone(
        self, plugin: Component, model: Any
    ) -> None:
        if "segments" not in plugin.supports:
            return
        length = min(model.context, 10)
        first = length // 2
        tokens = _tokens(1, length)
        targets = _tokens(1, length).flip(1)
        targets[0, -1] = IGNORE_INDEX  # padding
        lengths = (first, length - 1 - first, 1)
        packed = {
            "inputs": tokens,
            "targets": targets,
            "segments": torch.arange(3).repeat_interleave(torch.tensor(lengths))[None],
            "positions": torch.cat([torch.arange(size) for size in lengths])[None],
        }
        whole, count = model.loss(packed)
        parts = [
            model.loss({"inputs": tokens[:, place], "targets": targets[:, place]})
            for place in (slice(0, first), slice(first, length - 1))
        ]
        torch.testing.assert_close(sum(loss for loss, _ in parts), whole, rtol=1e-4, atol=1e-3)
        assert int(count) == length - 1

    def test_a_cache_gives_the_logits_of_the_whole_sequence(
        self, plugin: Component, model: Any
    ) -> None:
        if "kv_cache" not in plugin.supports:
            assert getattr(model, "new_cache", None) is None, "say supports = {'kv_cache'}"
            return
        length = min(model.context, 10)
        tokens = _tokens(2, length)
        with torch.inference_mode():
            whole = model(tokens)
            cache = model.new_cache(2, length)
            pieces = [model(tokens[:, :4], cache=cache)]
            pieces += [model(tokens[:, at : at + 1], cache=cache) for at in range(4, length)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-3, atol=1e-4)

    def test_a_cache_goes_on_after_prompts_of_unequal_length(
        self, plugin: Component, model: Any
    ) -> None:
        if "kv_cache" not in plugin.supports:
            return
        tokens = _tokens(2, 6)
        lengths = torch.tensor([3, 5])
        following = torch.tensor([[7], [8]])
        with torch.inference_mode():
            cache = model.new_cache(2, 6)
            model(tokens[:, :5], cache=cache)
            cache.set_lengths(lengths)
            fed = model(following, cache=cache)[:, -1]
            for row, length in enumerate(lengths.tolist()):
                alone = torch.cat([tokens[row : row + 1, :length], following[row : row + 1]], dim=1)
                torch.testing.assert_close(fed[row], model(alone)[0, -1], rtol=1e-3, atol=1e-4)

    def test_a_cache_that_can_select_rows_goes_on_with_those(
        self, plugin: Component, model: Any
    ) -> None:
        if "kv_cache" not in plugin.supports:
            return
        tokens = _tokens(2, 5)
        following = torch.tensor([[7], [8], [9]])
        picked = torch.tensor([1, 0, 1])
        with torch.inference_mode():
            cache = model.new_cache(2, 6)
            if not hasattr(cache, "select"):
                return
            model(tokens, cache=cache)
            cache.select(picked)
            fed = model(following, cache=cache)[:, -1]
            alone = model(torch.cat([tokens[picked], following], dim=1))[:, -1]
        torch.testing.assert_close(fed, alone, rtol=1e-3, atol=1e-4)

    def test_transformers_reads_what_it_writes(
        self, model: Any, batch: dict[str, Tensor], tmp_path: Path
    ) -> None:
        form: Any = model
        if not isinstance(form, HuggingFaceModel):
            return
        transformers = pytest.importorskip("transformers")
        files = []
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            form.save_hugging_face(folder, tokenizer=TinyTokenizer(), max_shard_size=10_000)
            files.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert files[0] == files[1], "equal models give equal files"
        assert {"config.json", "model.safetensors.index.json"} <= files[0].keys()
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.inference_mode():
            found = theirs(input_ids=batch["inputs"]).logits
            torch.testing.assert_close(found, model(batch["inputs"]), rtol=1e-3, atol=1e-4)


def _tokens(rows: int, length: int) -> Tensor:
    return torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(3))
