"""The backend that trains under DeepSpeed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmforge.errors import RunError
from llmforge.interfaces import Batch, Engine, LanguageModel, Resolution, RunContext
from llmforge_plugins.backends._deepspeed_config import build_config
from llmforge_plugins.backends._deepspeed_engine import PlainEngine, ZeroEngine
from llmforge_plugins.backends._deepspeed_import import captured_output, import_deepspeed
from llmforge_plugins.backends._engine import compile_blocks, recompute
from llmforge_plugins.backends._needs import STAGE_3_IS_EAGER, require_group
from llmforge_plugins.backends._resolve import eager, explained, resolve, take_device
from llmforge_plugins.backends._state import trainable

_SHARED = (
    "each holds everything",
    "each holds its share of the optimizer's state",
    "each holds its share of the optimizer's state and of gradients",
    "each holds its share of the optimizer's state, of gradients and of weights",
)
"""What ranks share, by stage."""


class DeepSpeedBackend:
    """Implements :class:`llmforge.interfaces.Backend` over the default process group.

    Args:
        run: the run it works for.
        options: of ``[backend.deepspeed]``.
    """

    def __init__(self, run: RunContext, options: Any) -> None:
        self._run = run
        self._options = options

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Build the model on the host, so that it starts alike everywhere, and hand it over.

        Raises:
            RecipeError: this machine lacks what the recipe asks for.
            RunError: the ranks are not connected, or DeepSpeed refuses the recipe.
        """
        run = self._run
        resolution = resolve(run)
        if self._options.stage == 3:
            resolution = eager(resolution, STAGE_3_IS_EAGER)
        take_device(resolution)
        require_group(run)
        deepspeed = import_deepspeed(resolution.device)
        model = model_factory()
        recomputed = recompute(cast("nn.Module", model), run.train.activation_checkpointing)
        if resolution.compile:
            compile_blocks(cast("nn.Module", model))
        # DeepSpeed casts the weights before it takes its fp32 copy: the exact ones are put back
        exact = {name: p.detach().clone() for name, p in trainable(model)}
        model.train()
        engine = self._initialize(deepspeed, model, optimizer_factory, resolution)
        common: dict[str, Any] = {
            "resolution": self._explained(resolution, recomputed=recomputed),
            "grad_clip": run.train.grad_clip,
            "engine": engine,
            "world_size": run.world_size,
        }
        if self._options.stage == 0:
            return PlainEngine(model, engine.optimizer, schedule, **common)
        zero = ZeroEngine(
            model,
            engine.basic_optimizer,
            schedule,
            stage=self._options.stage,
            rank=run.rank,
            model_factory=model_factory,
            **common,
        )
        zero.set_weights(exact)
        return zero

    def _explained(self, resolution: Resolution, *, recomputed: int) -> Resolution:
        stage = self._options.stage
        shared = f"ZeRO stage {stage} over {self._run.world_size} ranks: {_SHARED[stage]}"
        return explained(resolution, shared, recomputed=recomputed)

    def _initialize(
        self,
        deepspeed: Any,
        model: LanguageModel,
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        resolution: Resolution,
    ) -> Any:
        config = build_config(
            self._run,
            self._options,
            precision=resolution.precision,
            parameters=sum(p.numel() for _, p in model.named_parameters()),
        )

        def optimizer(parameters: object) -> torch.optim.Optimizer:
            del parameters
            made: torch.optim.Optimizer = optimizer_factory(trainable(model))
            return made

        module = _Loss(model)
        os.environ.setdefault("LOCAL_RANK", str(torch.device(resolution.device).index or 0))
        with captured_output():
            try:
                engine, *_ = deepspeed.initialize(
                    model=module,
                    optimizer=optimizer,
                    model_parameters=[p for p in module.parameters() if p.requires_grad],
                    config=config,
                    dist_init_required=False,
                )
            except (AssertionError, ValueError, NotImplementedError) as error:
                raise RunError(
                    f"DeepSpeed refuses this run: {error}", remedy="see [backend.deepspeed]"
                ) from error
        return engine


class _Loss(nn.Module):
    """Makes the loss what a module's call returns: DeepSpeed acts around calls."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed loss and target count."""
        return self.model.loss(batch)
