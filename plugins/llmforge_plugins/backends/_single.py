"""The backend of one process on one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from llmforge.interfaces import Engine, LanguageModel, RunContext
from llmforge_plugins.backends._engine import SingleEngine, recompute
from llmforge_plugins.backends._resolve import explained, resolve, take_device
from llmforge_plugins.backends._state import trainable


class SingleBackend:
    """Implements :class:`llmforge.interfaces.Backend` for one device.

    Attributes:
        engine: what drives the model; another class for a backend that only differs in that.
    """

    engine = SingleEngine

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def reasons(self) -> tuple[str, ...]:
        """Return what is to be said of the engine besides device and precision."""
        return ()

    def prepare(
        self,
        model_factory: Callable[[], LanguageModel],
        optimizer_factory: Callable[[list[tuple[str, Any]]], Any],
        schedule: Callable[[int], float],
    ) -> Engine:
        """Build the model on the host, so that it starts alike everywhere, and move it.

        Raises:
            RecipeError: the recipe asks for a device or precision this machine does not have.
        """
        resolution = resolve(self._run)
        device = take_device(resolution)
        model = model_factory()
        recomputed = recompute(cast("nn.Module", model), self._run.train.activation_checkpointing)
        cast("nn.Module", model).to(device)
        model.train()
        return self.engine(
            model,
            optimizer_factory(trainable(model)),
            schedule,
            resolution=explained(resolution, *self.reasons(), recomputed=recomputed),
            grad_clip=self._run.train.grad_clip,
        )
