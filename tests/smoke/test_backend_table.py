"""Runs that one backend begins and another one takes to their end, all by ``forge train``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from forge_process import RECIPE, Workplace

HALF, END = 12, 24
TOLERANCE = 2e-5
"""Largest relative difference of a loss: sums over ranks are added in another order."""

LONG = RECIPE.replace("max_steps = 60", f"max_steps = {END}").replace(
    "batch_size = 8\n", "batch_size = 16\n", 1
)

Team = tuple[str, int]
"""A backend, a ZeRO stage after a hyphen, and how many ranks it has."""

TEAMS: tuple[Team, ...] = (
    ("single", 1),
    ("ddp", 2),
    ("fsdp", 2),
    ("deepspeed-1", 2),
    ("deepspeed-2", 2),
    ("deepspeed-3", 2),
)
COVER = (
    (("ddp", 2), ("fsdp", 2)),
    (("fsdp", 2), ("single", 1)),
)
"""What ``make test`` has of the table: whole and sharded states read the other way."""

OTHER_SIZES = (
    (("ddp", 1), ("ddp", 2)),
    (("ddp", 2), ("ddp", 1)),
    (("ddp", 2), ("ddp", 4)),
    (("fsdp", 2), ("fsdp", 4)),
    (("fsdp", 1), ("fsdp", 2)),
    (("fsdp", 2), ("fsdp", 1)),
    (("deepspeed-3", 1), ("deepspeed-3", 2)),
    (("deepspeed-3", 2), ("deepspeed-3", 1)),
    (("deepspeed-3", 2), ("deepspeed-3", 4)),
    (("deepspeed-2", 2), ("deepspeed-2", 4)),
)


def options(team: Team) -> list[str]:
    """Return the command line of a team."""
    name, _, stage = team[0].partition("-")
    found = ["--set", f"backend.name={name}"]
    if stage:
        found += ["--set", f"backend.deepspeed.stage={stage}"]
    return found + (["--nproc-per-node", str(team[1])] if name != "single" else [])


class Table:
    """Runs of each team, started and taken to their end when they are first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started: dict[Team, Workplace] = {}
        self._whole: dict[Team, Workplace] = {}

    def _new(self, name: str) -> Workplace:
        settings = {"eval.every": "6", "checkpoint.every": "6"}
        return Workplace(self._path / name, settings, recipe=LONG)

    def started(self, team: Team) -> Workplace:
        """Return a run that stands at half its steps; not to be changed."""
        if team not in self._started:
            place = self._started[team] = self._new(f"started-{team[0]}-{team[1]}")
            place.train(*options(team), "--set", f"train.stop_at={HALF}")
        return self._started[team]

    def whole(self, team: Team) -> Workplace:
        """Return a run that was never interrupted."""
        if team not in self._whole:
            place = self._whole[team] = self._new(f"whole-{team[0]}-{team[1]}")
            place.train(*options(team))
        return self._whole[team]

    def resumed(self, writer: Team, reader: Team) -> Workplace:
        """Return a run that ``writer`` began and ``reader`` took to its end."""
        name = f"{writer[0]}-{writer[1]}-by-{reader[0]}-{reader[1]}"
        place = self.started(writer).copy(self._path / name)
        place.train(*options(reader))
        return place


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """The table, of which each run is made once."""
    yield Table(tmp_path_factory.mktemp("table"))


def check(table: Table, writer: Team, reader: Team) -> None:
    """Check that the resumed run is the uninterrupted one."""
    resumed = table.resumed(writer, reader)
    if writer == reader:
        assert resumed.result() == table.whole(writer).result()
        return
    rows, wanted = resumed.rows, table.whole(("single", 1)).rows
    deviation = largest_deviation(rows, wanted)
    print(f"{writer[0]}-{writer[1]} -> {reader[0]}-{reader[1]}: {deviation:.1e}")
    assert [ids(row) for row in rows] == [ids(row) for row in wanted]
    assert deviation < TOLERANCE


def ids(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where in the data a row stands."""
    return row["step"], row["epoch"], row["tokens_seen"]


def largest_deviation(rows: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> float:
    """Return the largest relative difference of a loss."""
    found = 0.0
    for row, other in zip(rows, wanted, strict=True):
        for name in ("train/loss", "val/loss"):
            if name in other:
                found = max(found, abs(row[name] - other[name]) / other[name])
    assert not math.isnan(found)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("writer", "reader"), COVER)
def test_a_run_goes_on_under_another_backend(table: Table, writer: Team, reader: Team) -> None:
    check(table, writer, reader)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        pair
        for pair in [*((writer, reader) for writer in TEAMS for reader in TEAMS), *OTHER_SIZES]
        if pair not in COVER
    ],
)
def test_every_backend_goes_on_from_every_other_one(
    table: Table, writer: Team, reader: Team
) -> None:
    check(table, writer, reader)
