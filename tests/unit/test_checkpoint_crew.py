"""Ranks that work together: results, failures and losses reach every one, in bounded time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gloo_ranks import crews, on_all, outcomes

from llmforge.checkpoint import CrewLostError
from llmforge.checkpoint.gloo_group import GlooCrew
from llmforge.checkpoint.rank_group import everyone, led
from llmforge.checkpoint.shared_directory import check_shared
from llmforge.errors import CheckpointError


def test_alone_work_is_done_and_returned_as_it_is() -> None:
    thing = object()
    assert everyone(None, lambda: thing) == [thing]
    assert led(None, lambda: thing) is thing


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_leader_gets_the_results_of_all_in_order(world_size: int) -> None:
    results = on_all(lambda crew: everyone(crew, lambda: {"rank": crew.rank}), crews(world_size))
    assert results[0] == [{"rank": rank} for rank in range(world_size)]
    assert all(result == [] for result in results[1:])


def test_what_the_leader_does_is_done_once_and_known_to_all() -> None:
    done: list[int] = []

    def work(rank: int) -> list[int]:
        done.append(rank)
        return [7, rank]

    results = on_all(lambda crew: led(crew, lambda: work(crew.rank)), crews(3))
    assert results == [[7, 0]] * 3
    assert done == [0]


def fails(crew: GlooCrew, *ranks: int) -> None:
    if crew.rank in ranks:
        raise CheckpointError(f"no room at {crew.rank}", remedy="make some")


def test_a_failure_of_one_is_an_error_of_all_that_names_it_and_the_crew_goes_on() -> None:
    members = crews(3)
    errors = outcomes(lambda crew: everyone(crew, lambda: fails(crew, 1, 2)), members)
    assert {str(error) for error in errors} == {
        "rank 1: no room at 1; rank 2: no room at 2\n  make some"
    }
    assert isinstance(errors[1].__cause__, CheckpointError)  # type: ignore[union-attr]
    assert on_all(lambda crew: led(crew, lambda: 5), members) == [5, 5, 5]


def test_a_failure_of_the_leader_is_an_error_of_all() -> None:
    errors = outcomes(lambda crew: led(crew, lambda: fails(crew, 0)), crews(2))
    assert all("rank 0: no room at 0" in str(error) for error in errors)


def test_a_failure_ends_the_wait_for_those_still_at_work() -> None:
    def work(crew: GlooCrew) -> None:
        fails(crew, 1)
        time.sleep(0.5)

    errors = outcomes(lambda crew: everyone(crew, lambda: work(crew)), crews(2, timeout=0.4))
    assert all(str(error).startswith("rank 1: no room") for error in errors)


def test_work_may_take_longer_than_a_rank_may_be_silent() -> None:
    def work(crew: GlooCrew) -> int:
        time.sleep(1.5 if crew.rank == 1 else 0)
        return crew.rank

    results = on_all(lambda crew: everyone(crew, lambda: work(crew)), crews(3, timeout=0.5))
    assert results[0] == [0, 1, 2]


@pytest.mark.parametrize("silent", [1, 2])
def test_a_rank_that_is_silent_is_named_in_time_and_stays_lost(silent: int) -> None:
    members = crews(3, timeout=0.6)
    others = [crew for crew in members if crew.rank != silent]
    began = time.monotonic()
    errors = outcomes(lambda crew: everyone(crew, lambda: crew.rank), others)
    assert time.monotonic() - began < 5
    assert all(isinstance(error, CrewLostError) for error in errors)
    assert f"rank {silent} is lost" in str(errors[0])
    assert "rank 0, which leads" in str(errors[1])
    began = time.monotonic()
    again = outcomes(lambda crew: everyone(crew, lambda: crew.rank), others)
    assert [str(error) for error in again] == [str(error) for error in errors]
    assert time.monotonic() - began < 0.5


def test_a_leader_that_is_silent_is_named(tmp_path: Path) -> None:
    [_, follower] = crews(2, timeout=0.2)
    with pytest.raises(CrewLostError, match="rank 0, which leads"):
        led(follower, lambda: 1)


def test_a_leader_whose_connection_is_closed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in: nothing can be sent, as when the leader was killed a moment ago."""

    def refuse(message: object, rank: int) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer [::1]:9. This is typical")

    [_, follower] = crews(2)
    monkeypatch.setattr(follower, "_send", refuse)
    for _ in range(2):
        with pytest.raises(CrewLostError, match=r"rank 0, which leads .* \(Connection closed by"):
            led(follower, lambda: 1)


def test_ranks_that_see_one_directory_leave_nothing_in_it(tmp_path: Path) -> None:
    on_all(lambda crew: check_shared(tmp_path / "checkpoints", crew), crews(3))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_rank_that_sees_another_directory_is_named(tmp_path: Path) -> None:
    for rank in range(3):
        (tmp_path / f"{rank > 1}").mkdir(exist_ok=True)
    errors = outcomes(
        lambda crew: check_shared(tmp_path / f"{crew.rank > 1}", crew, seconds=0.2), crews(3)
    )
    for error in errors:
        assert f"rank 2: {tmp_path / 'True'} on" in str(error)
        assert "is not the checkpoints directory that rank 0 writes to" in str(error)
        assert "set run.root" in str(error)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_rank_that_may_not_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in, since root may write everywhere: making a follower's file is refused."""
    real = Path.touch

    def refuse(path: Path) -> None:
        if path.name.endswith("-1"):
            raise PermissionError(13, "Permission denied")
        real(path)

    monkeypatch.setattr(Path, "touch", refuse)
    for error in outcomes(lambda crew: check_shared(tmp_path, crew), crews(2)):
        assert f"rank 1: {tmp_path} cannot be written to on" in str(error)
