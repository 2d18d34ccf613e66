"""Holding new data against a run's training data: which tokens it has, and how well they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.checkpoint import Checkpoint
from llmforge.checkpoint.format import RECIPE
from llmforge.data.example_rows import ExampleSplit
from llmforge.data.shards import TokenSplit
from llmforge.drift.token_distribution import Divergence, divergence, sample_blocks
from llmforge.errors import UsageError
from llmforge.evaluation import measure_loss, open_splits
from llmforge.generation import LoadedModel, load_checkpoint
from llmforge.generation.load import UNUSED
from llmforge.interfaces import TokenShard
from llmforge.plugins import load
from llmforge.recipe import Override, Recipe, load_recipe
from llmforge.rundir import RunDirectory
from llmforge.rundir.context import run_context

AnySplit = TokenSplit | ExampleSplit

_MOST_TOKENS = 1 << 22
"""Tokens counted at most, of either side: more change the frequencies by less than chance does."""

_DECODED = 64
"""Blocks of tokens that are decoded to see how much text a token is."""

_TEXT = "text"  # data of files, for runs whose own component names a corpus
_PLACES = ("train", "path", "validation", "test", "sample", "validation_fraction")
"""Options of data components that say where data is, not what it is like."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of the two kinds of data is like.

    Attributes:
        description: what it is, for people.
        tokens: all its tokens.
        bytes_per_token: of text and of rows, in UTF-8; less when it is spelt out in more tokens.
        loss: nats per scored target; None when it was not measured.
        scored: tokens the loss was measured over; 0 when it was not.
    """

    description: str
    tokens: int
    bytes_per_token: float
    loss: float | None
    scored: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a comparison found.

    Attributes:
        training: the training data; its loss is that of the validation split.
        new: the new data.
        divergence: of the frequencies of tokens.
        threshold: bits of divergence beyond chance from which on the tokens have drifted.
        loss_threshold: relative increase of the loss from which on it has drifted.
    """

    training: Side
    new: Side
    divergence: Divergence
    threshold: float
    loss_threshold: float

    @property
    def loss_increase(self) -> float | None:
        """Relative increase of the loss over that on the validation split."""
        if self.new.loss is None or not self.training.loss:
            return None
        return self.new.loss / self.training.loss - 1

    @property
    def drifted(self) -> tuple[str, ...]:
        """What is beyond its threshold: ``tokens``, ``loss``, both or nothing."""
        found = ("tokens",) if self.divergence.excess > self.threshold else ()
        return (*found, "loss") if (self.loss_increase or 0) > self.loss_threshold else found

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        found = asdict(self)
        found["divergence"]["excess"] = self.divergence.excess
        return {**found, "loss_increase": self.loss_increase, "drifted": list(self.drifted)}


def compare(
    checkpoint: Checkpoint,
    data: str,
    *,
    threshold: float,
    loss_threshold: float,
    sequences: int,
    assignments: Sequence[Override] = (),
    device: str = "auto",
    dtype: str = "auto",
    notice: Callable[[str], None] = print,
) -> tuple[Drift, LoadedModel]:
    """Return how far ``data`` is from what ``checkpoint`` was trained on.

    Args:
        checkpoint: of the run.
        data: files as the run's data component takes them (paths, folders, globs, URLs), or a
            recipe, whose data is meant.
        threshold: see :class:`Drift`.
        loss_threshold: see :class:`Drift`.
        sequences: sequences or examples that the loss is measured over, on either side; 0 measures
            none.
        assignments: further keys of the recipe that the new data is read with.
        device: where to compute.
        dtype: number format of the weights.
        notice: told what the user should know.

    Raises:
        UsageError, RecipeError: the new data cannot be described so.
        DataError: the new or the training data cannot be read.
    """
    loaded = load_checkpoint(checkpoint, device=device, dtype=dtype, notice=notice)
    recipe = _recipe_of(data, checkpoint, loaded.recipe, assignments)
    run = run_context(
        RunDirectory(loaded.run.directory), recipe, notice=notice, resolved={"packed": False}
    )
    new_data, found = open_splits(loaded, notice, recipe=recipe, run=run)
    own_data, own = open_splits(loaded, notice)
    new, training = list(found.values()), [own["train"]]
    held_out = own.get("validation", own["train"])
    losses = [
        measure_loss(loaded, _part(split, sequences, context=loaded.recipe.context))
        if sequences and not _needs_reference(split)
        else None
        for split in (held_out, found["train"])
    ]
    if sequences and None in losses:
        notice("the loss is not compared: its objective needs a reference for each row")
    sides = [
        _side(loaded, description, splits, loss)
        for description, splits, loss in (
            (own_data.description, training, losses[0]),
            (new_data.description, new, losses[1]),
        )
    ]
    found_divergence = divergence(
        _blocks(training), _blocks(new), vocab_size=loaded.tokenizer.vocab_size
    )
    drift = Drift(
        training=sides[0],
        new=sides[1],
        divergence=found_divergence,
        threshold=threshold,
        loss_threshold=loss_threshold,
    )
    return drift, loaded


def _recipe_of(
    data: str, checkpoint: Checkpoint, recipe: Recipe, assignments: Sequence[Override]
) -> Recipe:
    """Return the run's recipe with the new data in place of its own."""
    left_out = [Override((name,), None) for name in UNUSED]
    table = _table_of(data, recipe)
    replaced = [Override(("data",), None), Override(("data",), table, origin="DATA")]
    return load_recipe(checkpoint.path / RECIPE, overrides=[*left_out, *replaced, *assignments])


def _table_of(data: str, recipe: Recipe) -> Mapping[str, Any]:
    if data.endswith(".toml"):
        tables = load_recipe(data).tables["data"]
        return {key: value for key, value in tables.items() if value is not None}
    selection = recipe.selected("data")
    known = load("data", selection.name).Options.model_fields
    name, given = selection.name, selection.options.model_dump(exclude_unset=True)
    if "train" not in known:
        if "examples" in load("data", name).supports:
            raise UsageError(
                f"the data '{name}' takes no files", remedy="name a recipe whose data is meant"
            )
        name, given = _TEXT, {}
        known = load("data", name).Options.model_fields
    kept = {key: value for key, value in given.items() if key not in _PLACES and value is not None}
    path = str(Path(data).absolute()) if Path(data).exists() else data
    return {"name": name, name: {**kept, "train": path}}


def _needs_reference(split: AnySplit) -> bool:
    return isinstance(split, ExampleSplit) and split.objective.needs_reference


def _blocks(splits: Sequence[AnySplit]) -> list[NDArray[np.int64]]:
    """Return a part of all tokens, in blocks that are evenly spaced."""
    found = []
    for split in splits:
        where = sample_blocks(split.n_tokens, most=_MOST_TOKENS)
        if isinstance(split, TokenSplit):
            found += [split.read(start, stop) for start, stop in where]
        else:
            found += [split.ids[start:stop].astype(np.int64) for start, stop in where]
    return found


def _part(split: AnySplit, sequences: int, *, context: int) -> AnySplit:
    """Return at most so many sequences of ``split``, evenly spaced."""
    if isinstance(split, ExampleSplit):
        chosen = np.unique(np.linspace(0, split.rows - 1, min(sequences, split.rows)).astype(int))
        rows = [split.row(index) for index in chosen]
        return dataclasses.replace(
            split,
            ids=np.concatenate([ids for ids, _ in rows]),
            scored=np.concatenate([scored for _, scored in rows]),
            starts=np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])]).astype(np.int64),
            bins=None,
        )
    windows = max(1, split.n_tokens // context)
    starts = np.unique(np.linspace(0, windows - 1, min(sequences, windows)).astype(int)) * context
    ids = np.concatenate([split.read(start, start + context) for start in starts])
    shard = TokenShard(name="a part", path=Path(), ids=ids)
    return TokenSplit(shards=(shard,), n_bytes=None, documents=1)


def _side(
    loaded: LoadedModel,
    description: str,
    splits: Sequence[AnySplit],
    measured: tuple[float, int] | None,
) -> Side:
    # decoding takes longer than counting, and the average needs less
    blocks = _blocks(splits)
    some = blocks[:: max(1, len(blocks) // _DECODED)]
    text = sum(len(loaded.tokenizer.decode(block.tolist()).encode()) for block in some)
    loss, scored = measured or (None, 0)
    return Side(
        description=description,
        tokens=sum(split.n_tokens for split in splits),
        bytes_per_token=text / sum(map(len, some)),
        loss=loss,
        scored=scored,
    )
