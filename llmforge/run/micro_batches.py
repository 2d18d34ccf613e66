"""How the global batch is divided: into micro-batches, added up by each of several ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.errors import Problem, RecipeError
from llmforge.recipe import Recipe

CPU_TOKENS = 16_384
"""At once on a CPU; so many still cache well."""

CPU_TOKENS_PACKED = 2_048
"""The same of rows that are full of examples: as fast as more of them, with half the memory.

Rows of one example each are short, mostly, and few of them are too small for the matrix kernels.
"""


@dataclass(frozen=True, kw_only=True)
class Division:
    """A batch of ``micro x accumulated x ranks`` sequences, and which of them a rank takes.

    The ranks take turns at micro-batches: with two of them, rank 0 computes the first, third …
    and rank 1 the others. So the sequences of a step are the same for any number of ranks.
    """

    batch: int
    micro: int
    ranks: int = 1
    rank: int = 0

    @property
    def accumulated(self) -> int:
        """Micro-batches that each rank adds up for a step."""
        return self.batch // (self.micro * self.ranks)

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return (
            f"batch {self.batch} = {self.micro} per micro-batch x {self.accumulated} accumulated "
            f"x {ranks}"
        )

    def micro_batches(self) -> Iterator[tuple[int, int]]:
        """Yield this rank's micro-batches: index within the global batch, and first sequence."""
        for turn in range(self.accumulated):
            index = turn * self.ranks + self.rank
            yield index, index * self.micro

    def of(self, batch: int) -> Division:
        """Return how a batch of another size is divided, micro-batches being as large at most."""
        if batch == self.batch:
            return self
        share = batch // self.ranks
        micro = next(size for size in range(min(self.micro, share), 0, -1) if share % size == 0)
        return Division(batch=batch, micro=micro, ranks=self.ranks, rank=self.rank)

    def smaller(self) -> Division | None:
        """Return the division with the next smaller micro-batch; None at one sequence."""
        share = self.batch // self.ranks
        sizes = (size for size in range(self.micro // 2, 0, -1) if share % size == 0)
        micro = next(sizes, None)
        if micro is None:
            return None
        return Division(batch=self.batch, micro=micro, ranks=self.ranks, rank=self.rank)


def divide_batch(
    recipe: Recipe,
    resolved: Mapping[str, Any],
    *,
    device: str,
    ranks: int = 1,
    rank: int = 0,
    longest: int | None = None,
    packed: bool = False,
) -> Division:
    """Return how the recipe's batch is divided over ``ranks``.

    The micro-batch is the recipe's, or follows from its accumulation, or was found to fit by an
    earlier start. Without any of these a CPU gets at most 16,384 tokens at once, 2,048 where rows
    are packed; a GPU starts with all of its share and, when it is the only one, halves it when it
    runs out of memory. A row has up to ``longest`` tokens, the context if not said.

    Raises:
        RecipeError: the numbers do not multiply up.
    """
    train = recipe.train
    batch, micro, accumulation = train.batch_size, train.micro_batch_size, train.accumulation
    if batch % ranks:
        raise _contradiction(
            recipe,
            "train.batch_size",
            f"{batch} sequences cannot be divided among {ranks} ranks",
            f"a multiple of {ranks}, or another number of processes",
        )
    begin = train.batch_warmup_from
    if train.batch_warmup_steps and begin is not None and begin % ranks:
        raise _contradiction(
            recipe,
            "train.batch_warmup_from",
            f"{begin} sequences cannot be divided among {ranks} ranks",
            f"a multiple of {ranks}, or another number of processes",
        )
    share = batch // ranks
    if micro is not None and accumulation is not None and micro * accumulation != share:
        raise _contradiction(
            recipe,
            "train.accumulation",
            f"batch_size {batch} is not micro_batch_size {micro} x accumulation {accumulation} x "
            f"{ranks} rank{'s' if ranks > 1 else ''}, which is {micro * accumulation * ranks}",
            "leave out one of the three",
        )
    if micro is not None and share % micro:
        raise _contradiction(
            recipe,
            "train.micro_batch_size",
            f"{micro} does not divide the {share} sequences of each of {ranks} ranks "
            f"(batch_size {batch})",
            f"one of {_divisors(share)}",
        )
    if accumulation is not None:
        if share % accumulation:
            raise _contradiction(
                recipe,
                "train.accumulation",
                f"the {share} sequences of each of {ranks} ranks (batch_size {batch}) are not "
                f"{accumulation} equal micro-batches",
                f"one of {_divisors(share)}",
            )
        micro = share // accumulation
    if micro is None:
        tokens = CPU_TOKENS_PACKED if packed else CPU_TOKENS
        fitting = max(1, tokens // (longest or recipe.context)) if device == "cpu" else share
        wanted = int(resolved.get("micro_batch_size", 0)) or fitting
        micro = next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)
    return Division(batch=batch, micro=micro, ranks=ranks, rank=rank)


def _divisors(number: int) -> str:
    return ", ".join(str(size) for size in range(1, number + 1) if number % size == 0)


def _contradiction(recipe: Recipe, key: str, message: str, remedy: str) -> RecipeError:
    problem = Problem(key=key, message=message, remedy=remedy)
    return RecipeError([problem], source=str(recipe.source))
