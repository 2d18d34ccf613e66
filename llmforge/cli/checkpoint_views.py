"""How checkpoints look: the list, one in full, several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmforge.cli.render import (
    METRIC_DIGITS,
    Column,
    date_text,
    duration_text,
    number,
    plain_value,
    print_section,
    print_table,
)
from llmforge.insight.inventory import CheckpointInfo
from llmforge.progress import size_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from llmforge.insight.checkpoint_comparison import CheckpointComparison
    from llmforge.insight.checkpoint_facts import CheckpointFacts
    from llmforge.insight.tensor_statistics import TensorStatistics
    from llmforge.insight.weight_distance import Distance, WeightDistances

_LIST = (
    Column("step", right=True),
    Column("epoch", right=True),
    Column("train/loss", right=True),
    Column("val/loss", right=True),
    Column("size", right=True),
    Column("written"),
    Column("marks", fold=True),
    Column("problem", fold=True),
)
_TENSORS = (
    Column("tensor", fold=True),
    Column("shape", right=True),
    Column("dtype"),
    Column("norm", right=True),
    Column("mean", right=True),
    Column("std", right=True),
    Column("not finite", right=True),
)
_UPLOADS = {
    "committed": "uploaded",
    "archiving": "uploading",
    "uploading": "uploading",
    "verifying": "uploading",
    "queued": "to upload",
    "failed": "upload failed",
}
_SHOWN_LAYERS = 20
_SHOWN_HASH = 12
_DIRECTIONS = {"improving": "improving", "flat": "flat", "worsening": "getting worse"}
_SIZES = ("size",)


def print_checkpoints(
    console: Console, found: Sequence[CheckpointInfo], *, title: str = ""
) -> None:
    """Print a table of checkpoints, a row each; nothing when there are none."""
    if not found:
        return
    if title:
        _print_title(console, title)
    rows = [
        (
            f"{info.step:,}",
            number(info.epoch, digits=2),
            number(info.train_loss),
            number(info.val_loss),
            size_text(info.size) if info.size else "",
            _written(info),
            ", ".join(marks(info)),
            without_path(info.problem, info.path),
        )
        for info in found
    ]
    _print_filled(console, _LIST, rows, indent=2 if title else 0)


def marks(info: CheckpointInfo) -> Iterator[str]:
    """Yield what there is to say of a checkpoint in a word: best, last, pinned, uploaded, …"""
    if info.is_best:
        yield "best"
    if info.is_last:
        yield "last"
    if info.is_pinned:
        yield "pinned"
    if info.upload in _UPLOADS:
        yield _UPLOADS[info.upload]
    if info.problem:
        yield "damaged"


def without_path(problem: str, checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint, its files without the path that is known anyway."""
    return problem.replace(f"{checkpoint}/", "")


def print_facts(
    console: Console, facts: CheckpointFacts, tensors: Sequence[TensorStatistics] | None
) -> None:
    """Print everything that is known of one checkpoint; ``tensors`` where they were asked for."""
    from rich.text import Text

    title = Text(f"{facts.run_id}  step {facts.progress.step:,}", style="bold")
    title.append("".join(f"  {mark}" for mark in marks(facts.info)), style="cyan")
    console.print(title, soft_wrap=True)
    print_section(console, "", _present(_overview(facts)))
    print_section(console, "Loss", _present(_loss(facts)))
    print_section(console, "Progress", _present(_progress(facts)))
    print_section(console, "System", _present(_system(facts.system)))
    print_section(console, "Provenance", _present(_provenance(facts)))
    print_section(console, "Files", {name: size_text(size) for name, size in facts.files.items()})
    print_section(console, "Weights", _present(_weights(facts)))
    if tensors is not None:
        print_tensors(console, tensors)


def print_tensors(console: Console, tensors: Sequence[TensorStatistics]) -> None:
    """Print a table of tensors, a row each, and whether all of their values are finite."""
    _print_title(console, "Tensors")
    rows = [
        (
            item.name,
            "×".join(map(str, item.shape)) or "scalar",
            item.dtype,
            _figure(item.norm),
            _figure(item.mean),
            _figure(item.std),
            f"{item.nonfinite:,}" if item.nonfinite else "",
        )
        for item in tensors
    ]
    _print_filled(console, _TENSORS, rows, indent=2)
    broken = [item for item in tensors if item.nonfinite]
    if broken:
        values = sum(item.nonfinite for item in broken)
        console.print(
            f"  {values:,} values of {len(broken)} tensors are not finite (NaN or infinite)",
            style="red",
        )
    else:
        console.print("  all values are finite", style="dim")


def print_comparison(
    console: Console, names: Sequence[str], found: CheckpointComparison, *, by_tensor: bool
) -> None:
    """Print checkpoints side by side, and how far the others are from the first."""
    columns = [Column(name, right=True, fold=True) for name in names]
    rows = [(name, *_cells(name, values)) for name, values in found.metrics.items()]
    print_table(console, [Column("metric"), *columns], rows)
    console.print()
    if found.recipe:
        rows = [
            (name, *("-" if value is None else plain_value(value) for value in values))
            for name, values in found.recipe.items()
        ]
        print_table(console, [Column("recipe"), *columns], rows)
    else:
        console.print("the recipes are the same")
    if found.frozen:
        hashes = ", ".join("none" if item is None else item[:_SHOWN_HASH] for item in found.frozen)
        console.print(
            f"the frozen weights differ ({hashes}): the weights below are only part of the models",
            style="yellow",
        )
    for name, distances in zip(names[1:], found.distances, strict=True):
        _print_distances(console, distances, first=names[0], second=name, by_tensor=by_tensor)


def _print_distances(
    console: Console, distances: WeightDistances, *, first: str, second: str, by_tensor: bool
) -> None:
    _print_title(console, f"Weights: {second} against {first}")
    left_out = list(_left_out(distances, first=first, second=second))
    if left_out:
        console.print("  the architectures differ; not compared:", style="yellow")
    for text in left_out:
        console.print(f"    {text}", style="yellow")
    if not distances.tensors:
        console.print("  they have no tensor of one name and shape in common", style="yellow")
        return
    every = distances.tensors if by_tensor else distances.layers
    shown = every if by_tensor else every[:_SHOWN_LAYERS]
    columns = (
        Column("tensor" if by_tensor else "layer", fold=True),
        Column("parameters", right=True),
        Column("distance", right=True),
        Column("cosine", right=True),
    )
    print_table(
        console, columns, [_distance_row(item) for item in (*shown, distances.total)], indent=2
    )
    if len(shown) < len(every):
        console.print(
            f"  {len(every) - len(shown)} more layers moved less; --tensors and --json show all",
            style="dim",
        )
    console.print("  distance: ‖a − b‖ / ‖a‖ (L2), largest first", style="dim")


def _left_out(distances: WeightDistances, *, first: str, second: str) -> Iterator[str]:
    parts = (
        (distances.only_first, f"only in {first}"),
        (distances.only_second, f"only in {second}"),
        (distances.reshaped, "of different shapes"),
    )
    for names, where in parts:
        if names:
            yield f"{len(names):,} tensors {where}: {_some(names, most=2)}"


def _distance_row(item: Distance) -> tuple[str, str, str, str]:
    far = "-" if item.relative is None else f"{item.relative:.4f}"
    if item.relative and item.relative < 1e-3:
        far = f"{item.relative:.2e}"
    cosine = "-" if item.cosine is None else f"{item.cosine:.6f}"
    return item.name, f"{item.parameters:,}", far, cosine


def _overview(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    yield "state of the run", facts.state
    yield "written", _written(facts.info)
    yield "size", size_text(facts.info.size)
    yield "directory", str(facts.info.path)
    yield "damaged", facts.info.problem


def _loss(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    for name, value in facts.metrics.items():
        if name != "lr":
            yield name, number(value, digits=METRIC_DIGITS.get(name, 4))
    if facts.best:
        best = facts.best
        since = facts.steps_since_best or 0
        ago = "this checkpoint" if not since else f"{since:,} steps before"
        yield "best", f"{best['metric']} {number(best['value'])} at step {best['step']:,} ({ago})"
    if (loss := facts.loss) is not None:
        logged = "1 logged step" if loss.count == 1 else f"{loss.count} logged steps"
        yield (
            "mean",
            f"{number(loss.mean)} ± {loss.std:.4f}, from {number(loss.low)} to "
            f"{number(loss.high)} ({logged}, {loss.first_step:,} to "
            f"{loss.last_step:,})",
        )
    trend = facts.trend
    if trend.slope is None or trend.standard_error is None:
        yield "trend", f"unknown: {trend.count} logged losses are too few" if trend.count else ""
    else:
        yield (
            "trend",
            f"{_DIRECTIONS[trend.direction]}, {trend.slope:+.4g} ± {trend.standard_error:.2g} per "
            f"1,000 steps",
        )
        yield "trend by", trend.method
    yield "learning rate", number(facts.metrics.get("lr"))


def _progress(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    progress = facts.progress
    of = ""
    if progress.total_steps:
        of = f" of {progress.total_steps:,} ({progress.step / progress.total_steps:.0%})"
    yield "step", f"{progress.step:,}{of}"
    yield "epoch", number(progress.epoch, digits=2)
    yield "tokens seen", number(progress.tokens)
    yield "run ends in", duration_text(progress.eta_seconds)


def _system(system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in system.items():
        yield name, plain_value(value)


def _provenance(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    labels = {"recipe_hash": "recipe hash", "frozen_weights": "frozen weights"}
    labels |= {name: f"{name} fingerprint" for name in ("data", "tokenizer", "template")}
    for name, value in facts.provenance.items():
        if name == "dirty":
            yield "changed files", _some(value)
        elif name == "git":
            yield "git commit", str(value)[:_SHOWN_HASH]
        elif name == "parent":
            yield "parent", f"step {value:,}"
        elif name == "model":
            origin = {key: item for key, item in value.items() if key != "architecture"}
            yield "model", plain_value(origin)
        else:
            yield labels.get(name, name), str(value)[:_SHOWN_HASH]


def _weights(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    if (weights := facts.weights) is not None:
        yield "tensors", f"{weights.tensors:,} in {_files(weights.files)}"
        yield "parameters", f"{weights.parameters:,}"
        yield "type", ", ".join(weights.dtypes)
    if (frozen := facts.frozen) is not None:
        yield (
            "frozen",
            f"{frozen['parameters']:,} more are not in it: {frozen['source']}, sha256 "
            f"{frozen['sha256'][:_SHOWN_HASH]}",
        )


def _cells(name: str, values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        if value is None:
            yield "-"
        elif name in _SIZES:
            yield size_text(value)
        else:
            yield number(value, digits=METRIC_DIGITS.get(name, 4))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _figure(value: float | None) -> str:
    """Return a statistic with four significant digits."""
    if value is None:
        return "-"
    return f"{value:.4g}" if not value or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def _some(names: Sequence[str], *, most: int = 4) -> str:
    shown = ", ".join(names[:most])
    more = len(names) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


def _written(info: CheckpointInfo) -> str:
    return date_text(datetime.fromisoformat(info.created).timestamp()) if info.created else ""


def _print_filled(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, indent: int
) -> None:
    """Print a table without the columns that have no value in any row."""
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    filled = [[row[index] for index in kept] for row in rows]
    print_table(console, [columns[index] for index in kept], filled, indent=indent)


def _present(values: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in values if value}


def _print_title(console: Console, title: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(title, style="bold"))
