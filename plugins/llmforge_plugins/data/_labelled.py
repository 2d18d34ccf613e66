"""Files of texts with labels."""

from __future__ import annotations

from typing import Any

from llmforge import RunContext
from llmforge.errors import DataError
from llmforge.interfaces import ExampleLayout, TextExample
from llmforge_plugins.data._example_files import ExampleFiles, Sources, example_files

_LABELS_NAMED = 6
_MOST_LABELS = 10_000


class LabelledData(ExampleFiles):
    """Texts of files; see :class:`ExampleFiles`.

    Attributes:
        labels: their names in the order of their numbers; empty when there are none.
    """

    component = "labelled"

    def __init__(self, sources: Sources, options: Any, run: RunContext) -> None:
        self._given = tuple(options.labels)
        self._found: dict[str, None] = {}
        self._labelled: bool | None = None
        self.labels: tuple[str, ...] = ()
        super().__init__(sources, options, run)

    @property
    def form(self) -> str:
        """What the rows are."""
        return f"texts with {len(self.labels)} labels" if self.labels else "texts"

    def look_at_all(self, run: RunContext) -> None:
        """Look at the training rows first: they say which labels there are."""
        self._look_at("train", run)
        self.labels = self._given or _in_order(tuple(self._found))
        if self._labelled and len(self.labels) < 2:
            names = ", ".join(str(path) for path in self._files["train"])
            raise DataError(f"{names}: every row has the same label, '{self.labels[0]}'")
        for split in self._files:
            if split != "train":
                self._look_at(split, run)

    def make_layout(self) -> ExampleLayout:
        """Return how texts become rows of tokens."""
        return ExampleLayout(template=None, truncate=self._options.truncate)

    def convert(self, row: Any, place: str, split: str) -> TextExample:
        """Return a row as a text."""
        column = self._options.columns.get
        text = row.get(column("text", "text"))
        if not isinstance(text, str) or not text.strip():
            what = "has no" if text is None else "has an empty" if text == "" else "has no usable"
            raise DataError(
                f"it {what} '{column('text', 'text')}'",
                remedy='name the column: columns = { text = "…" }' if text is None else "",
            )
        pair = row.get(column("pair", "pair"))
        if pair is not None and not isinstance(pair, str):
            raise DataError(f"'{column('pair', 'pair')}' is {type(pair).__name__}, not a text")
        label = self._label(row.get(column("label", "label")), column("label", "label"), split)
        return TextExample(text=text, pair=pair or None, label=label, source=place)

    def text(self, example: TextExample) -> str:
        """Return the text, and the second one."""
        return "\n".join(part for part in (example.text, example.pair) if part)

    def rules(self) -> list[Any]:
        """Return the labels."""
        return [list(self.labels)]

    def _label(self, value: Any, column: str, split: str) -> int | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise DataError(f"'{column}' is {type(value).__name__}, not a text or a whole number")
        if self._labelled is None:
            self._labelled = value is not None
        if (value is not None) != self._labelled:
            raise DataError(
                f"it has {'no' if self._labelled else 'a'} '{column}', unlike the first"
            )
        if value is None:
            return None
        name = str(value).strip()
        known = self._given or self.labels
        if not known and split == "train":  # the first look at the training rows
            self._found.setdefault(name)
            if len(self._found) > _MOST_LABELS:
                raise DataError(
                    f"there are more than {_MOST_LABELS:,} labels", remedy="is it a number to fit?"
                )
            return 0
        if name not in known:
            listed = ", ".join(known[:_LABELS_NAMED])
            more = f" and {len(known) - _LABELS_NAMED} more" if len(known) > _LABELS_NAMED else ""
            raise DataError(
                f"'{column}' is '{name}', which is not a label: {listed}{more}",
                remedy="correct it, or list all labels: labels = [...]",
            )
        return known.index(name)


def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return labels by number: whole numbers from 0 on as they are, names sorted."""
    if all(name.isdecimal() for name in names):
        numbers = sorted(map(int, names))
        if numbers == list(range(len(numbers))):
            return tuple(map(str, numbers))
    return tuple(sorted(names))


def build(options: Any, run: RunContext) -> LabelledData:
    """Find the files and look at every row.

    Raises:
        DataError: a pattern matches nothing, or a file or row cannot be used.
    """
    return LabelledData(example_files(options, "labelled", run), options, run)
