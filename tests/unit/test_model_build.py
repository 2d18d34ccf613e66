"""The model of a run: built from its seed, adapted, with what does not train identified."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from llmforge import Component, hookimpl
from llmforge.errors import RecipeError, RunError
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager
from llmforge.run.setup.model_build import ModelBuilder, agreed
from llmforge.testing import TinyModel, TinyTokenizer, make_component, run_context


class Tiny(Component, kind="model"):
    """The smallest model; draws some random numbers more than it needs."""

    class Options(Component.Options):
        context: int = 16
        drawn: int = 0

    @hookimpl
    def forge_build_model(self, tokenizer: Any) -> TinyModel:
        model = TinyModel(tokenizer.vocab_size)
        torch.rand(self.options.drawn)
        return model


class Scale(Component, kind="adapter"):
    """Trains a random scale and what else is named."""

    class Options(Component.Options):
        trained: tuple[str, ...] = ("scale",)

    asked: RunContext | None = None

    @hookimpl
    def forge_build_adapter(self, run: RunContext) -> Scale:
        self.asked = run
        return self

    def apply(self, model: Any) -> None:
        """Add a parameter and freeze the others."""
        model.scale = torch.nn.Parameter(torch.rand(3))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.options.trained)

    def merge(self, model: Any) -> None:
        """Take it away again."""
        del model.scale


def builder(
    directory: Path,
    *,
    adapter: Component | None = None,
    seed: int = 1,
    drawn: int = 0,
    hashes: bool = True,
) -> ModelBuilder:
    components = [make_component(Tiny, {"drawn": drawn}), *([adapter] if adapter else [])]
    config = {"model": {"name": "tiny"}, **({"adapter": {"name": "scale"}} if adapter else {})}
    run = run_context(directory, seed=seed, config=config)
    return ModelBuilder(build_manager(components), run, TinyTokenizer(), hashes=hashes)


def scale(**options: Any) -> Scale:
    made = make_component(Scale, options)
    assert isinstance(made, Scale)
    return made


def test_forge_build_adapter_is_asked_for_what_changes_the_model(tmp_path: Path) -> None:
    adapter = scale()
    model: Any = builder(tmp_path, adapter=adapter)()
    assert adapter.asked is not None, "forge_build_adapter was not called"
    assert adapter.asked.id == "test-run"
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained == ["scale"]


def test_without_an_adapter_everything_trains_and_nothing_is_said(tmp_path: Path) -> None:
    build = builder(tmp_path)
    build()
    assert build.built is not None
    assert build.built.frozen is None
    assert build.built.lines() == []


def test_an_adapter_is_the_same_however_much_the_model_drew(tmp_path: Path) -> None:
    first, second = (builder(tmp_path, adapter=scale(), drawn=drawn)() for drawn in (0, 100))
    other: Any = builder(tmp_path, adapter=scale(), seed=2)()
    assert torch.equal(first.scale, second.scale)
    assert not torch.equal(first.scale, other.scale)


def test_what_trains_is_counted_and_told(tmp_path: Path) -> None:
    build = builder(tmp_path, adapter=scale())
    build()
    built = build.built
    assert built is not None
    assert built.frozen is not None
    assert built.frozen.parameters + built.trainable == built.parameters
    assert built.trainable == 3
    assert built.lines() == [
        f"adapter scale: 3 of {built.parameters:,} parameters train "
        f"({100 * 3 / built.parameters:.2f} %)"
    ]
    assert built.frozen.source == "tiny, seed 1"


def test_frozen_weights_are_hashed_once_and_follow_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    from llmforge.run.setup import model_build

    real = model_build.hash_tensors
    monkeypatch.setattr(model_build, "hash_tensors", lambda found: hashed.append(1) or real(found))
    build = builder(tmp_path, adapter=scale())
    build()
    first = build.built
    build()
    assert len(hashed) == 1
    assert build.built is first
    again, other = builder(tmp_path, adapter=scale()), builder(tmp_path, adapter=scale(), seed=2)
    again()
    other()
    assert first is not None and again.built is not None and other.built is not None
    assert first.frozen == again.built.frozen != other.built.frozen


def test_a_model_in_outline_has_nothing_to_hash(tmp_path: Path) -> None:
    build = builder(tmp_path, adapter=scale())
    with torch.device("meta"):
        build()
    assert build.built is None


def test_an_adapter_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"adapter\.scale: every parameter is frozen"):
        builder(tmp_path, adapter=scale(trained=()))()


class Ranks:
    """A team that gathers what its ranks have."""

    def __init__(self, *others: Any) -> None:
        self._others = others

    def gather(self, value: Any) -> list[Any]:
        """Return what this rank and the others have."""
        return [value, *self._others]


def test_a_rank_that_hashed_nothing_has_the_hash_of_the_others(tmp_path: Path) -> None:
    mine, theirs = (
        builder(tmp_path, adapter=scale(), hashes=False),
        builder(tmp_path, adapter=scale()),
    )
    mine()
    theirs()
    assert mine.built is not None and theirs.built is not None
    assert mine.built.frozen is None
    found = agreed(mine.built, Ranks(theirs.built.frozen))  # type: ignore[arg-type]
    assert found.frozen == theirs.built.frozen


def test_ranks_with_other_frozen_weights_are_refused(tmp_path: Path) -> None:
    build = builder(tmp_path, adapter=scale())
    build()
    assert build.built is not None and build.built.frozen is not None
    other = dataclasses.replace(build.built.frozen, sha256="0" * 64)
    with pytest.raises(RunError, match="rank 1 are not those of rank 0"):
        agreed(build.built, Ranks(other))  # type: ignore[arg-type]
