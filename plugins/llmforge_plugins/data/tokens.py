"""The data ``tokens``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import TokenData

Paths = str | list[str]


class Tokens(Component, kind="data"):
    """Tokenised shards: ``.npy``, ``.npz`` and ``.bin`` files of token ids.

    As llm.c, nanoGPT, build-nanogpt and the like write them; local paths, folders, globs and
    fsspec URLs. They are read where they lie, or from a verified copy in the cache.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"tokens"})

    class Options(llmforge.Options):
        """Options of ``[data.tokens]``."""

        train: Paths | None = None
        """Training shards; a folder stands for all its shards."""
        path: Paths | None = None
        """Another name for ``train``."""
        validation: Paths | None = None
        """Validation shards; they are left out of training when both patterns match them."""
        test: Paths | None = None
        """Test shards."""
        validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
        """Share of the training tokens, at their end, that validates when ``validation`` is absent;
        0 validates nothing."""
        max_files: int = -1
        """Train on this many shards only, the first ones; -1 takes all."""
        vocab_size: Annotated[int, Field(gt=0)] | None = None
        """Ids are below this; absent: below the tokenizer's."""
        eos_id: Annotated[int, Field(ge=0)] | None = None
        """The id that ends a document; absent: the tokenizer's."""
        dtype: Literal["auto", "uint16", "uint32"] = "auto"
        """Number type of ``.bin`` files without a header; ``auto``: uint16 unless ``vocab_size``
        is above 65,536."""
        key: str | None = None
        """The array's name in ``.npz`` files; absent: ``tokens``, ``input_ids`` or the only one."""

        @field_validator("max_files")
        @classmethod
        def _some_files(cls, value: int) -> int:
            if value != -1 and value < 1:
                raise ValueError(f"must be at least 1, or -1 for all, got {value}")
            return value

        @model_validator(mode="after")
        def _one_train(self) -> Tokens.Options:
            if (self.train is None) == (self.path is None):
                raise ValueError("give the training shards as train (or path), not both")
            if self.eos_id is not None and self.eos_id >= (self.vocab_size or self.eos_id + 1):
                raise ValueError(f"eos_id {self.eos_id} is not below vocab_size")
            return self

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the local files."""
        from llmforge_plugins.data._patterns import local_problems
        from llmforge_plugins.data._shards import SUFFIXES

        del run
        return local_problems(self.options, f"data.{self.name}", SUFFIXES)

    @hookimpl
    def forge_build_data(self, run: RunContext) -> TokenData:
        """Open the shards, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._tokens import build

        return build(self.options, run)
