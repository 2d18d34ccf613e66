"""Windows of training text cut into shorter ones at the beginning: sequence length warm-up.

As Li et al., "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for Training
GPT Models" (2022), in stages as Press et al., "Shortformer" (2021). A step learns the same tokens
whatever the length is, so sample order, epochs and schedule are those of a run without it.
"""

from __future__ import annotations

from llmforge.interfaces import Batch
from llmforge.recipe import Recipe
from llmforge.recipe.rules import warmup_lengths


class ContextWarmup:
    """How long the windows of a step are.

    Args:
        recipe: has the context, ``train.context_warmup_steps`` and ``train.context_warmup_from``;
            the shorter lengths share those steps equally.
    """

    def __init__(self, recipe: Recipe) -> None:
        train = recipe.train
        self._context, self._steps = recipe.context, train.context_warmup_steps
        self._shorter: list[int] = []
        if self._steps:
            *self._shorter, _ = warmup_lengths(recipe.context, train.context_warmup_from)

    def length(self, step: int) -> int:
        """Return the tokens of a window at a step, counted from 0."""
        if step >= self._steps or not self._shorter:
            return self._context
        return self._shorter[step * len(self._shorter) // self._steps]

    def cut(self, batch: Batch, step: int) -> Batch:
        """Return a batch of tensors [rows, context] as [more rows, length of the step]."""
        length = self.length(step)
        if length == self._context:
            return batch
        return {name: tensor.reshape(-1, length) for name, tensor in batch.items()}
