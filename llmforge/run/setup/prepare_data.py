"""Preparing data ahead of a run, in the cache that runs share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.data.split import TokenSplit
from llmforge.plugins import build_manager, load
from llmforge.recipe import Recipe
from llmforge.run.plan import make_plan
from llmforge.run.setup.build import prepare_data
from llmforge.rundir import RunDirectory


def prepare_ahead(recipe: Recipe, *, notice: Callable[[str], None]) -> dict[str, Any]:
    """Download and tokenise the data of ``recipe`` into the cache; report what lies where.

    Raises:
        DataError: data is missing or too little.
    """
    selected = [recipe.selected(kind) for kind in ("data", "tokenizer")]
    manager = build_manager([load(item.kind, item.name)(item.options) for item in selected])
    run = make_plan(recipe).context(resolved={}, notice=notice)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare_data(manager, run, RunDirectory(Path(scratch)), check_stop=lambda: None)
    return {
        "data": prepared.data.description,
        "fingerprint": prepared.data.fingerprint,
        "cache": str(run.cache),
        "vocab_size": prepared.tokenizer.vocab_size,
        "splits": {
            name: {
                "tokens": split.n_tokens,
                "bytes": split.n_bytes,
                "documents": split.documents,
                "paths": [str(path) for path in files],
                "size": sum(path.stat().st_size for path in files),
            }
            for name, split, files in _files(prepared.splits)
        },
    }


def _files(splits: Mapping[str, TokenSplit]) -> Iterator[tuple[str, TokenSplit, list[Path]]]:
    for name, split in splits.items():
        yield name, split, list(dict.fromkeys(shard.path for shard in split.shards))
