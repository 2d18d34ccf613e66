"""Building the model of a run: through its hook, adapted, with what does not train identified."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pluggy
import torch

from llmforge.checkpoint.frozen_weights import FrozenWeights, frozen_parameters, hash_tensors
from llmforge.distributed import Team
from llmforge.errors import Problem, RecipeError, RunError
from llmforge.interfaces import Adapter, LanguageModel, Objective, RunContext, weight_count
from llmforge.plugins import call_factory
from llmforge.run.objective_loss import take_over_loss
from llmforge.run.seeds import ADAPTER, MODEL, derive


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """What of a model trains.

    Attributes:
        parameters: all its numbers, shared ones counted once.
        trainable: those that train.
        adapter: name of the adapter, or None.
        frozen: the others; None when all train, and on ranks that leave hashing to another.
        frozen_names: the parameters that do not train.
    """

    parameters: int
    trainable: int
    adapter: str | None
    frozen: FrozenWeights | None
    frozen_names: frozenset[str]

    def lines(self) -> list[str]:
        """Return what to tell of it before training starts; nothing when everything trains."""
        if self.trainable == self.parameters and self.adapter is None:
            return []
        what = "frozen weights" if self.adapter is None else f"adapter {self.adapter}"
        share = f"{100 * self.trainable / self.parameters:.2f} %"
        counts = f"{self.trainable:,} of {self.parameters:,}"
        return [f"{what}: {counts} parameters train ({share})"]


class ModelBuilder:
    """Builds the model of a run, alike each time a backend asks for it.

    Args:
        manager: has the components of the run.
        run: the run.
        tokenizer: of the run.
        hashes: whether to hash what is frozen, when the model is first built.
        objective: whose loss the model gets if it has one.

    Attributes:
        built: what the model is, once it was built with weights.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        run: RunContext,
        tokenizer: Any,
        *,
        hashes: bool,
        objective: Objective | None = None,
    ) -> None:
        self._manager, self._run, self._tokenizer = manager, run, tokenizer
        self._objective = objective or Objective()
        self._hashes = hashes
        self.built: BuiltModel | None = None

    def __call__(self) -> LanguageModel:
        """Return the model, freshly initialised from the run's seed.

        Raises:
            RecipeError: nothing of it would train.
        """
        model = seeded_model(self._manager, self._run, self._tokenizer)
        on_meta = any(parameter.is_meta for _, parameter in model.named_parameters())
        if self.built is None and not on_meta:
            self.built = _look_at(model, self._run, hashes=self._hashes)
        take_over_loss(model, self._objective)
        return model


def seeded_model(manager: pluggy.PluginManager, run: RunContext, tokenizer: Any) -> LanguageModel:
    """Return the run's model, initialised and adapted with the run's seed."""
    torch.manual_seed(derive(run.seed, MODEL))
    model: LanguageModel = call_factory(manager, "forge_build_model", run=run, tokenizer=tokenizer)
    return adapted(manager, run, model)


def adapted(manager: pluggy.PluginManager, run: RunContext, model: LanguageModel) -> LanguageModel:
    """Let the adapter of the recipe, if there is one, change ``model``; return it.

    Raises:
        RecipeError: the adapter does not fit it, or leaves nothing to train.
    """
    if (name := adapter_name(run)) is None:
        return model
    adapter: Adapter = call_factory(manager, "forge_build_adapter", run=run)
    # a stream of its own: the adapter is the same however many numbers the model drew
    torch.manual_seed(derive(run.seed, ADAPTER))
    adapter.apply(model)
    if not any(parameter.requires_grad for _, parameter in model.named_parameters()):
        message = "every parameter is frozen: there is nothing to train"
        raise RecipeError([Problem(key=f"adapter.{name}", message=message)])
    return model


def adapter_name(run: RunContext) -> str | None:
    """Return the name of the adapter that the recipe of ``run`` selects, or None."""
    name = run.config.get("adapter", {}).get("name")
    return None if name is None else str(name)


def frozen_weights(model: LanguageModel, run: RunContext) -> FrozenWeights | None:
    """Return what identifies the frozen weights of ``model``; None when it has none."""
    frozen = frozen_parameters(model)
    if not frozen:
        return None
    return FrozenWeights(
        sha256=hash_tensors(frozen),
        parameters=sum(weight_count(p) for name, p in model.named_parameters() if name in frozen),
        source=_source(model, run),
    )


def agreed(built: BuiltModel, team: Team) -> BuiltModel:
    """Return ``built`` with the frozen weights that the ranks who hashed theirs all have.

    Raises:
        RunError: the ranks do not have the same.
    """
    if not built.frozen_names:
        return built
    found = team.gather(built.frozen)
    hashed = [(rank, one) for rank, one in enumerate(found) if one is not None]
    first = hashed[0][1]
    if wrong := [str(rank) for rank, one in hashed if one.sha256 != first.sha256]:
        raise RunError(
            f"the frozen weights of rank {', '.join(wrong)} are not those of rank 0",
            remedy="give every machine the same pre-trained model",
        )
    return replace(built, frozen=first)


def _look_at(model: LanguageModel, run: RunContext, *, hashes: bool) -> BuiltModel:
    parameters = dict(model.named_parameters())
    trainable = [weight_count(part) for part in parameters.values() if part.requires_grad]
    return BuiltModel(
        parameters=sum(weight_count(parameter) for parameter in parameters.values()),
        trainable=sum(trainable),
        adapter=adapter_name(run),
        frozen=frozen_weights(model, run) if hashes else None,
        frozen_names=frozenset(frozen_parameters(model)),
    )


def _source(model: LanguageModel, run: RunContext) -> str:
    """Return where weights came from: as the model says, and the seed of what was random."""
    name = run.config.get("model", {}).get("name", "model")
    told = ", ".join(f"{key} {value}" for key, value in getattr(model, "resolution", {}).items())
    return f"{name} ({told}), seed {run.seed}" if told else f"{name}, seed {run.seed}"
