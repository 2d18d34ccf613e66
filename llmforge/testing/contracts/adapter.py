"""The contract of the kind ``adapter``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmforge.component import Component
from llmforge.errors import ExportError
from llmforge.interfaces import Adapter, HuggingFaceAdapter, RunContext
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.tiny_model import TinyModel

VOCABULARY = 16


class AdapterContract(Contract):
    """Changes a model in place, the same for the same seed, and trains only what it says."""

    @pytest.fixture
    def adapter(self, plugin: Component, run: RunContext) -> Adapter:
        """The adapter under test."""
        built: Adapter = build(plugin, "forge_build_adapter", run=run)
        return built

    def test_some_parameters_train_and_the_model_computes_as_before(self, adapter: Adapter) -> None:
        model, plain = _model(), _model()
        _apply(adapter, model)
        assert any(parameter.requires_grad for parameter in model.parameters())
        torch.testing.assert_close(model(_inputs()), plain(_inputs()))

    def test_equal_seeds_give_equal_models(self, adapter: Adapter) -> None:
        first, second = _model(), _model()
        _apply(adapter, first)
        torch.rand(5)
        _apply(adapter, second)
        assert _equal(_parameters(first), _parameters(second))

    def test_it_says_the_same_on_the_meta_device(self, adapter: Adapter) -> None:
        model = _model()
        _apply(adapter, model)
        with torch.device("meta"):
            outline = _model()
            _apply(adapter, outline)
        assert all(parameter.is_meta for parameter in outline.parameters())
        found, expected = (
            [(name, p.shape, p.requires_grad) for name, p in one.named_parameters()]
            for one in (outline, model)
        )
        assert found == expected

    def test_all_that_trains_gets_gradients_and_lowers_the_loss(self, adapter: Adapter) -> None:
        model = _model()
        _apply(adapter, model)
        before = _parameters(model)
        losses = _train(model)
        assert losses[-1] < losses[0]
        for name, parameter in model.named_parameters():
            changed = not torch.equal(parameter.detach(), before[name])
            assert changed == parameter.requires_grad, f"{name} changed: {changed}"

    def test_merged_it_has_its_old_names_and_what_was_learned(self, adapter: Adapter) -> None:
        model, plain = _model(), _model()
        _apply(adapter, model)
        _train(model)
        with torch.no_grad():
            expected = model(_inputs())
            adapter.merge(model)
            found = model(_inputs())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert {name: value.shape for name, value in model.state_dict().items()} == {
            name: value.shape for name, value in plain.state_dict().items()
        }

    def test_over_a_model_that_is_not_published_it_is_not_written_alone(
        self, adapter: Adapter, tmp_path: Path
    ) -> None:
        if not isinstance(adapter, HuggingFaceAdapter):
            return
        model = _model()
        _apply(adapter, model)
        (folder := tmp_path / "exported").mkdir()
        with pytest.raises(ExportError):
            adapter.save_hugging_face(model, folder)
        assert list(folder.iterdir()) == []


def _model() -> TinyModel:
    torch.manual_seed(1)
    return TinyModel(vocab_size=VOCABULARY)


def _apply(adapter: Adapter, model: TinyModel) -> None:
    torch.manual_seed(2)
    adapter.apply(model)


def _inputs() -> Tensor:
    return torch.randint(VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(3))


def _train(model: TinyModel) -> list[float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02, weight_decay=0.0)
    ids = _inputs()
    losses = []
    for _ in range(8):
        total, count = model.loss({"inputs": ids[:, :-1], "targets": ids[:, 1:]})
        mean = total / count
        mean.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(mean.item())
    return losses


def _parameters(model: TinyModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
