"""Examples on a terminal: their numbers, and what of their text is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmforge.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from llmforge.data.audit import SplitAudit
    from llmforge.data.example_rows import ExampleSplit
    from llmforge.interfaces import Tokenizer

_BAR = 30


def print_splits(out: Console, audits: Mapping[str, SplitAudit]) -> None:
    """Print a table of the splits, and how long the rows of the first are."""
    from llmforge.cli.render import Column, print_table

    counted = ("examples", "rows", "tokens", "truncated", "dropped", "unlearned", "duplicates")
    names = ("examples", "rows", "tokens", "cut", "too long", "no answer", "twice")
    columns = [
        Column("split"),
        *(Column(name, right=True) for name in names),
        Column("in train", right=True),
        Column("learned", right=True),
    ]
    rows = [
        (
            name,
            *(f"{found.tally[key]:,}" for key in counted),
            f"{found.tally['overlap']:,}",
            f"{found.share:.1%}",
        )
        for name, found in audits.items()
    ]
    out.print()
    print_table(out, columns, rows)
    for name, found in audits.items():
        for item in found.spelled:
            out.print(
                f"{name}: {item.text} is no special token of this tokenizer "
                f"({item.rows:,} of {found.sampled:,} rows)",
                markup=False,
            )
        if found.unknown:
            out.print(f"{name}: {found.unknown:,} tokens are unknown to the tokenizer")
    name, first = next(iter(audits.items()))
    most = max(count for _, count in first.lengths)
    out.print(f"\nlengths in {name}, in tokens")
    for longest, count in first.lengths:
        bar = "█" * round(_BAR * count / most)
        out.print(f"  to {longest:>6,}  {bar:<{_BAR}} {count:,}")


def print_examples(
    out: Console,
    tokenizer: Tokenizer,
    split: ExampleSplit,
    *,
    labels: Sequence[str],
    count: int,
) -> None:
    """Print the first rows of a split; what is not learned is dimmed, or in brackets in a pipe."""
    from rich.text import Text

    for index in range(min(count, split.rows)):
        ids, scored = split.row(index)
        label = ""
        if split.objective.ends_in_label:
            label = f"  {labels[ids[-1]]}"
            ids, scored = ids[:-1], scored[:-1]
        learned = int(split.learned[index])
        out.print(f"\n{index + 1} of {split.rows:,}: {len(ids)} tokens, {learned} learned")
        for name, tokens, learns in split.objective.parts(ids, scored):
            if name:
                out.print(f"{name}:", style="bold")
            text = Text()
            for part, scores in _runs(tokens.tolist(), learns.tolist()):
                shown = "\n".join(map(printable, _decoded(tokenizer, part).split("\n")))
                text.append(shown if scores or out.is_terminal else f"[{shown}]", _style(scores))
            text.append(printable(label), _style(learned=True))
            out.print(text)


def _style(learned: bool) -> str:
    return "bold green" if learned else "dim"


def _runs(ids: list[int], scored: list[int]) -> list[tuple[list[int], bool]]:
    """Return neighbouring tokens that are all learned, or all not."""
    runs: list[tuple[list[int], bool]] = []
    for token, learned in zip(ids, scored, strict=True):
        if not runs or runs[-1][1] != bool(learned):
            runs.append(([], bool(learned)))
        runs[-1][0].append(token)
    return runs


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return text with the names of special tokens."""
    names = {number: text for text, number in getattr(tokenizer, "special_tokens", {}).items()}
    parts: list[str] = []
    plain: list[int] = []
    for token in [*ids, None]:
        if token is None or token in names:
            if plain:
                parts.append(tokenizer.decode(plain))
            plain = []
            if token is not None:
                parts.append(names[token])
        else:
            plain.append(token)
    return "".join(parts)
