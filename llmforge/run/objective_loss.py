"""The loss of an objective in place of the model's own, wherever an engine asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmforge.interfaces import REFERENCE, Batch, LanguageModel, Objective

if TYPE_CHECKING:
    from torch import Tensor


def has_own_loss(objective: Objective) -> bool:
    """Return whether the loss is the objective's, and not the cross-entropy of the model."""
    return type(objective).loss is not Objective.loss


def take_over_loss(model: LanguageModel, objective: Objective) -> None:
    """Make ``model.loss`` that of ``objective`` if it has its own; nothing else is changed.

    Backends shard, wrap and compile that method, and only that one, so everything an objective
    computes with the model goes through it. In training mode it is the objective's ``loss``. In
    evaluation mode it is ``evaluate``, or ``reference`` for a batch that still lacks what is
    needed of it.
    """
    if not has_own_loss(objective):
        return

    owner: Any = model

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        if owner.training:
            return objective.loss(model, batch)
        if objective.needs_reference and REFERENCE not in batch:
            return objective.reference(model, batch), batch["targets"].new_zeros(())
        return objective.evaluate(model, batch)

    owner.loss = loss
