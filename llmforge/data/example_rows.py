"""Conversations as rows of tokens: made once, kept in the cache, memory-mapped when read.

An entry is a directory ``<cache>/examples/<fingerprint>/`` with, for each split, the ids of all
rows one after the other (``<split>.ids``), whether each token is learned (``<split>.scored``), and
where rows begin (``<split>.starts``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge.data.cache_entry import Meta, StoredFile, cached, mapped
from llmforge.data.chat_template import chat_template
from llmforge.data.encoder import Encoder
from llmforge.data.packing import Bins, first_fit_decreasing
from llmforge.errors import DataError
from llmforge.interfaces import ChatTokenizer, ExampleData, Objective, Row, Tokenizer
from llmforge.progress import track

FORMAT_VERSION = 1

_KINDS = ("ids", "scored", "starts")
_COUNTED = (
    *("examples", "rows", "targets", "truncated", "dropped", "unlearned", "duplicates"),
    "overlap",
)
_CHECK_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of the examples of a split.

    Attributes:
        examples: as many as there were.
        rows: as many as are used.
        tokens: in all rows.
        targets: tokens that are learned.
        truncated: examples longer than the context that were cut.
        dropped: examples longer than the context that were left out.
        unlearned: examples left out because nothing of them is learned.
        duplicates: rows equal to an earlier one, which are kept.
        overlap: rows that are in the training split too; 0 for that one itself.
        longest: tokens of the longest example, before any cut.
    """

    examples: int
    rows: int
    tokens: int
    targets: int
    truncated: int
    dropped: int
    unlearned: int
    duplicates: int
    overlap: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class ExampleSplit:
    """The rows of a split.

    Attributes:
        ids: tokens of all rows, one after the other.
        scored: whether each is learned.
        starts: where each row begins, and the end of the last; int64 [rows + 1].
        tally: what became of the examples.
        template: SHA-256 of the template they were laid out with.
        objective: what made them, and makes batches of them.
        bins: which of them are packed together; None when each is on its own.
        reference: what the objective's ``reference`` returned for each row, fp32 [rows, n]; None
            where it needs none.
    """

    ids: NDArray[Any]
    scored: NDArray[np.uint8]
    starts: NDArray[np.int64]
    tally: Tally
    template: str
    objective: Objective = field(default_factory=Objective)
    bins: Bins | None = None
    reference: NDArray[np.float32] | None = None

    shards = ()
    n_bytes = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    @property
    def documents(self) -> int:
        """Number of examples, as the facts of a run have it."""
        return self.tally.examples

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all rows."""
        return len(self.ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.starts)

    @property
    def sequences(self) -> int:
        """Number of rows as a batch counts them: of bins when there are any."""
        return self.rows if self.bins is None else self.bins.count

    @cached_property
    def inputs(self) -> NDArray[np.int64]:
        """Inputs of each of ``sequences``: of every example one fewer than it has tokens."""
        return self.lengths - 1 if self.bins is None else self.bins.sums(self.lengths - 1)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """What is learned of each row, in tokens; the first of a row never is."""
        sums = np.concatenate([[0], np.cumsum(self.scored, dtype=np.int64)])
        return self.objective.targets(sums[self.starts[1:]] - sums[self.starts[:-1]])

    @cached_property
    def learned(self) -> NDArray[np.int64]:
        """Tokens of each row that people would call learned: its targets, if those are tokens."""
        if self.objective.sequences == 1:
            return self.targets
        found: NDArray[np.int64] = np.add.reduceat(self.scored == 1, self.starts[:-1], dtype=int)
        return found

    def row(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Return the tokens of a row, and whether each is learned."""
        part = slice(self.starts[index], self.starts[index + 1])
        return self.ids[part], self.scored[part]


def prepare_examples(
    data: ExampleData,
    tokenizer: Tokenizer,
    *,
    context: int,
    cache: Path,
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
    objective: Objective | None = None,
    packed: bool = False,
    verify: bool = False,
) -> dict[str, ExampleSplit]:
    """Return every split of ``data`` as rows, from the cache or made now.

    Args:
        data: conversations, and how they are laid out.
        tokenizer: what turns text into ids.
        context: inputs of a row at most; a row has one token more.
        cache: root of the cache.
        notice: told what became of examples that are not used as they are.
        check_stop: called every few hundred examples.
        objective: what makes rows of examples; next-token prediction when absent.
        packed: put several rows into one of ``context`` inputs. Which ones takes a second for a
            million rows and is not kept.
        verify: read and hash all of the cache, also where its files look as they did.

    Raises:
        DataError: an example cannot be laid out, nothing of a split is learned, or the cache cannot
            be written.
    """
    template = chat_template(data.layout, tokenizer)
    assert isinstance(tokenizer, ChatTokenizer)
    objective = objective or Objective()
    labels = tuple(getattr(data, "labels", ()))
    encoder = Encoder(
        template,
        tokenizer,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        layout=data.layout,
        context=context,
        labels=labels,
    )
    objective.open(encoder)
    laid_out_by = "" if template is None else template.source
    parts = [FORMAT_VERSION, data.fingerprint, list(data.splits), laid_out_by]
    parts += [data.layout.train_on, data.layout.truncate, context]
    parts += [tokenizer.fingerprint, tokenizer.eos_id]
    parts += [objective.form, *objective.key, *labels]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    entry = cache / "examples" / fingerprint
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")

    def build(directory: Path) -> Meta:
        splits = {}
        trained: frozenset[bytes] = frozenset()
        for split in sorted(data.splits, key=lambda name: name != "train"):
            examples = _laid_out(data, split, objective, encoder, check_stop)
            rows = _Rows(examples, objective)
            splits[split] = rows.write(directory, split, dtype, trained=trained)
            trained = frozenset(rows.seen) if split == "train" else trained
        return {"format_version": FORMAT_VERSION, "splits": splits}

    meta = cached(
        entry,
        fingerprint=fingerprint,
        build=build,
        files=_files,
        notice=notice,
        check_stop=check_stop,
        verify=verify,
    )
    written = hashlib.sha256(laid_out_by.encode()).hexdigest()
    found = {
        name: _open(entry, name, values, dtype, template=written, objective=objective)
        for name, values in meta["splits"].items()
    }
    for name, split in found.items():
        _require_rows(data, name, split, context)
        if text := _tally_text(split.tally):
            notice(f"{name}: {text}")
    return {name: _packed(split, context) for name, split in found.items()} if packed else found


def _packed(split: ExampleSplit, context: int) -> ExampleSplit:
    return replace(split, bins=first_fit_decreasing(split.lengths - 1, context))


def _laid_out(
    data: ExampleData,
    split: str,
    objective: Objective,
    encoder: Encoder,
    check_stop: Callable[[], None],
) -> Iterator[tuple[int, Sequence[Row]]]:
    with track(f"laying out {split}", unit="examples") as task:
        for number, example in enumerate(data.examples(split)):
            if number % _CHECK_EVERY == 0:
                check_stop()
            try:
                yield objective.rows(example, encoder)
            except DataError as error:
                raise DataError(f"{example.source}: {error.message}", remedy=error.remedy) from None
            task.advance(1)


class _Rows:
    """Makes the rows of a split, counting what becomes of its examples.

    Attributes:
        seen: a hash of every row that was written.
    """

    def __init__(self, examples: Iterator[tuple[int, Sequence[Row]]], objective: Objective) -> None:
        self._examples = examples
        self._objective = objective
        self._counts: Counter[str] = Counter()
        self._longest_example = 0
        self.seen: set[bytes] = set()

    def write(
        self, directory: Path, split: str, dtype: np.dtype[Any], *, trained: frozenset[bytes]
    ) -> dict[str, Any]:
        """Write the files of the split; return its tally and what the files must be."""
        files = {kind: _HashedFile(directory / f"{split}.{kind}") for kind in _KINDS}
        counts = self._counts
        starts = [0]
        with files["ids"], files["scored"], files["starts"]:
            for row in self._rows():
                ids = np.asarray(row.ids, dtype).tobytes()
                files["ids"].write(ids)
                files["scored"].write(np.asarray(row.scored, np.uint8).tobytes())
                starts.append(starts[-1] + len(row.ids))
                counts["rows"] += 1
                counts["targets"] += int(self._objective.targets(np.asarray([row.targets]))[0])
                mark = hashlib.sha256(ids).digest()[:16]
                counts["duplicates"] += mark in self.seen
                counts["overlap"] += mark in trained
                self.seen.add(mark)
            files["starts"].write(np.asarray(starts, "<i8").tobytes())
        tally = Tally(
            tokens=starts[-1],
            longest=self._longest_example,
            **{name: counts[name] for name in _COUNTED},
        )
        return {
            "tally": asdict(tally),
            "files": {kind: [file.size, file.digest.hexdigest()] for kind, file in files.items()},
        }

    def _rows(self) -> Iterator[Row]:
        """Yield the rows of which something is learned."""
        counts = self._counts
        for length, rows in self._examples:
            learned = [row for row in rows if any(row.scored)]
            self._longest_example = max(self._longest_example, length)
            counts["examples"] += 1
            counts["dropped"] += not rows
            counts["truncated"] += bool(rows) and length > max(len(row.ids) for row in rows)
            counts["unlearned"] += bool(rows) and not learned
            yield from learned


class _HashedFile:
    """A file that is written once, with its size and hash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0
        self.digest = hashlib.sha256()

    def __enter__(self) -> None:
        self._file = self._path.open("wb")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self.digest.update(block)
        self.size += len(block)


def _files(meta: Meta) -> dict[str, StoredFile]:
    return {
        f"{split}.{kind}": StoredFile(size, sha256)
        for split, values in meta["splits"].items()
        for kind, (size, sha256) in values["files"].items()
    }


def _open(
    entry: Path,
    split: str,
    values: Meta,
    dtype: np.dtype[Any],
    *,
    template: str,
    objective: Objective,
) -> ExampleSplit:
    return ExampleSplit(
        ids=mapped(entry / f"{split}.ids", dtype),
        scored=mapped(entry / f"{split}.scored", np.dtype(np.uint8)),
        starts=mapped(entry / f"{split}.starts", np.dtype("<i8")),
        tally=Tally(**values["tally"]),
        template=template,
        objective=objective,
    )


def _require_rows(data: ExampleData, name: str, split: ExampleSplit, context: int) -> None:
    tally = split.tally
    if split.rows:
        return
    if not tally.examples:
        raise DataError(f"{data.description}: the {name} split has no examples")
    if tally.dropped == tally.examples:
        raise DataError(
            f"{data.description}: all {tally.examples:,} examples of {name} are longer than the "
            f"context of {context} tokens",
            remedy='set a larger context, or truncate = "right", "left" or "split"',
        )
    raise DataError(
        f"{data.description}: nothing of {name} is learned: 0 % of its tokens are scored",
        remedy="look at it with: forge data show RECIPE",
    )


def _tally_text(tally: Tally) -> str:
    """Return what people should know of a split; empty where every example is used as it is."""
    parts = {
        "longer than the context and cut": tally.truncated,
        "longer than the context and left out": tally.dropped,
        "without anything to learn and left out": tally.unlearned,
    }
    told = [f"{count:,} {what}" for what, count in parts.items() if count]
    return f"of {tally.examples:,} examples {', '.join(told)}" if told else ""
