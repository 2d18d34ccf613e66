"""What a ``data`` component hands to the core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol


class Data(Protocol):
    """Text in splits; the core tokenises, packs and orders it.

    Attributes:
        splits: names among ``train``, ``validation`` and ``test``; ``train`` is required.
        fingerprint: a hash of the contents: equal for equal text, wherever it lies.
        description: one line for the log, for example ``WikiText-2 (raw), 2 files``.

    It may have ``files``, the names of the files it reads: every checkpoint tells their number.

    It may have a ``resolution``, a JSON-serialisable mapping of what it decided by itself (the
    hub or the bundled sample, say). The core keeps it with the run and gives it back on resume as
    ``run.resolved["data"]``.
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
