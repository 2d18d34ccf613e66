"""A loaded model with the batch that writes its texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmforge.generation import LoadedModel, build_generator
from llmforge.interfaces import ContinuousBatch
from llmforge.plugins import load
from llmforge.recipe import Selection
from llmforge.serve.limits import Limits
from llmforge.serve.one_at_a_time import OneAtATime

CONTINUOUS = "continuous_batching"


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """What requests are answered with.

    Attributes:
        loaded: model, tokenizer and template.
        selection: the generator, and the options that a request may change.
        batch: writes the texts.
        continuous: whether texts are written at the same time.
    """

    loaded: LoadedModel
    selection: Selection
    batch: ContinuousBatch
    continuous: bool

    @property
    def id(self) -> str:
        """Return what clients call it: the id of the run."""
        return self.loaded.run.id

    @property
    def context(self) -> int:
        """Return the longest prompt and answer together, in tokens."""
        return int(self.loaded.model.context)

    @property
    def fingerprint(self) -> str:
        """Return what changes with the weights."""
        return f"step-{self.loaded.checkpoint.step:08d}"


def served_model(
    loaded: LoadedModel, selection: Selection, *, limits: Limits, note: Callable[[str], None]
) -> ServedModel:
    """Return the model ready to answer.

    Raises:
        UsageError: it does not write.
        RecipeError: the generator needs a package.
    """
    generator: Any = build_generator(loaded, selection)
    batch: ContinuousBatch | None = None
    if CONTINUOUS in load("generation", selection.name).supports:
        prefix = limits.prefix_tokens
        batch = generator.new_batch(
            rows=limits.max_batch,
            prefix_tokens=4 * loaded.model.context if prefix is None else prefix,
        )
    if batch is not None:
        return ServedModel(loaded=loaded, selection=selection, batch=batch, continuous=True)
    note(
        "texts are written one at a time: this model or its generator cannot write several "
        "that begin at different times"
    )
    single = OneAtATime(
        lambda options: build_generator(loaded, Selection(selection.kind, selection.name, options))
    )
    return ServedModel(loaded=loaded, selection=selection, batch=single, continuous=False)
