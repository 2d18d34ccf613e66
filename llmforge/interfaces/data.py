"""What a ``data`` component hands to the core: text, or token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Data(Protocol):
    """Text in splits; the core tokenises, packs and orders it.

    Attributes:
        splits: names among ``train``, ``validation`` and ``test``; ``train`` is required.
        fingerprint: a hash of the contents: equal for equal text, wherever it lies.
        description: one line for the log, for example ``WikiText-2 (raw), 2 files``.

    It may have ``files``, the names of the files it reads: every checkpoint tells their number.

    It may have ``characters``, about how long the text of each split is, by its name: with it
    people are shown how long tokenising still takes.

    It may have ``iter_parts(split)``, which yields the same text in parts of any length, each with
    whether a document ends with it: documents too long for memory are read that way.

    It may have a ``resolution``, a JSON-serialisable mapping of what it decided by itself (the
    hub or the bundled sample, say). The core keeps it with the run and gives it back on resume as
    ``run.resolved["data"]``. Of it, ``repository`` (a data set on the hub) and ``language`` (by
    its code) are in model cards.
    """

    splits: Sequence[str]
    fingerprint: str
    description: str

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield the documents of ``split`` in a fixed order.

        A document is what an end-of-text token is put after; concatenated, the documents are
        the text whose bytes ``val/bits_per_byte`` is measured over.

        Raises:
            DataError: a file is missing or unreadable; the message names it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TokenShard:
    """Token ids that are in one local file, or in a part of it.

    Attributes:
        name: what messages and checkpoints call it.
        path: the file.
        ids: integers of shape [n], memory-mapped and read-only.
    """

    name: str
    path: Path
    ids: NDArray[Any]


@runtime_checkable
class TokenData(Protocol):
    """Token ids in splits; the core packs and orders them where they lie.

    A component that builds it says ``supports = {"tokens"}``, and a tokenizer that can be had
    without text ``supports = {"no_text"}``, so that a recipe that cannot work is refused early.

    Attributes:
        splits: as of :class:`Data`.
        fingerprint: as of :class:`Data`.
        description: as of :class:`Data`.
        vocab_size: ids are below it; None when only the tokenizer can say.
        eos_id: the id that ends a document; None when only the tokenizer can say.

    It may have a ``resolution`` as :class:`Data` may.
    """

    splits: Sequence[str]
    fingerprint: str
    description: str
    vocab_size: int | None
    eos_id: int | None

    def shards(self, split: str) -> Sequence[TokenShard]:
        """Return the shards of ``split`` in a fixed order.

        Training draws an epoch shard by shard, shards and what is in them in random order; no
        sequence goes across two.
        """
        ...
