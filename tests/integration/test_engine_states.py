"""Every engine resumes from every other one's state, over any number of ranks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_ranks import Setup, differing, make_engine, run_ranks, train, whole_state

from llmforge.plugins import entries

pytest.importorskip("deepspeed")

SAVED, END = 2, 5
TOLERANCE = {"fp32": 2e-5, "bf16": 5e-3}
"""Largest relative difference of a loss or gradient norm from the run that continued at once."""

Place = tuple[Setup, int]
"""An engine and its number of ranks."""


def engines(precision: str, *, alone: bool) -> list[Setup]:
    """Return the engines that one rank, or several, can train with."""
    names = ["single"] if alone else (["ddp"] if "ddp" in entries("backend") else [])
    plain = [Setup(name, precision=precision) for name in [*names, "fsdp"]]
    return plain + [Setup("deepspeed", {"stage": stage}, precision) for stage in (0, 1, 2, 3)]


def file_of(place: Place) -> str:
    setup, ranks = place
    return f"{setup}-{setup.precision}-at-{ranks}.pt"


def work(rank: int, directory: Path, writers: list[Setup], pairs: list[Any]) -> None:
    """Save states, then resume from those of ``pairs``: a file and the engine that takes it."""
    ranks = torch.distributed.get_world_size()
    for setup in writers:
        engine = make_engine(setup, directory)
        train(engine, range(SAVED))
        state = whole_state(engine)
        curve = train(engine, range(SAVED, END))
        if rank == 0:
            torch.save({"state": state, "curve": curve}, directory / file_of((setup, ranks)))
    torch.distributed.barrier()
    for index, (file, setup) in enumerate(pairs):
        saved = torch.load(directory / file, weights_only=False)
        engine = make_engine(setup, directory)
        engine.load_state(saved["state"])
        found = {
            "loaded": differing(whole_state(engine), saved["state"]),
            "curve": train(engine, range(SAVED, END)),
            "uninterrupted": saved["curve"],
        }
        if rank == 0:
            torch.save(found, directory / f"pair-{ranks}-{index}.pt")


def table(
    directory: Path, pairs: Iterable[tuple[Place, Place]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Write and resume every pair, and return what was found by the names of both."""
    pairs = list(pairs)
    counts = sorted({ranks for pair in pairs for _, ranks in pair})
    # states of fewer ranks are there when more ranks start; the rest is resumed afterwards
    found: dict[tuple[str, str], dict[str, Any]] = {}
    done: set[int] = set()
    for ranks in [*counts, *counts[:-1]]:
        writers = [] if ranks in done else _distinct(w for w, _ in pairs if w[1] == ranks)
        done.add(ranks)
        ready = [
            (writer, resumer)
            for writer, resumer in pairs
            if resumer[1] == ranks and writer[1] in done and _key(writer, resumer) not in found
        ]
        if not writers and not ready:
            continue
        tasks = [(file_of(writer), resumer[0]) for writer, resumer in ready]
        run_ranks(ranks, work, directory, writers, tasks)
        for index, pair in enumerate(ready):
            found[_key(*pair)] = torch.load(
                directory / f"pair-{ranks}-{index}.pt", weights_only=False
            )
    return found


def _distinct(places: Iterable[Place]) -> list[Setup]:
    return [setup for _, (setup, _) in {file_of(place): place for place in places}.items()]


def _key(writer: Place, resumer: Place) -> tuple[str, str]:
    return file_of(writer), file_of(resumer)


def check(pairs: Iterable[tuple[Place, Place]], found: dict[tuple[str, str], Any]) -> None:
    """Assert that every pair continued as it should."""
    wrong = []
    for writer, resumer in pairs:
        result = found[_key(writer, resumer)]
        tolerance = 0.0 if writer == resumer else TOLERANCE[resumer[0].precision]
        far = max(
            abs(mine - theirs) / abs(theirs)
            for ours, other in zip(result["curve"], result["uninterrupted"], strict=True)
            for mine, theirs in zip(ours, other, strict=True)
        )
        if result["loaded"] or not far <= tolerance:
            wrong.append((*_key(writer, resumer), far, result["loaded"]))
    assert wrong == []


def cover() -> list[tuple[Place, Place]]:
    """Return a few pairs in which every engine writes and resumes, over 1 and 2 ranks."""
    alone = {str(setup): (setup, 1) for setup in engines("fp32", alone=True)}
    both = {str(setup): (setup, 2) for setup in engines("fp32", alone=False)}
    circle = [
        alone["single"],
        both["fsdp"],
        both["deepspeed-1"],
        both["deepspeed-3"],
        both["deepspeed-2"],
        both["deepspeed-0"],
        both["ddp"],
        alone["deepspeed-3"],
    ]
    return list(zip(circle, [*circle[1:], circle[0]], strict=True))


def everything(precision: str, *counts: int) -> list[tuple[Place, Place]]:
    """Return all pairs of engines over these numbers of ranks."""
    places = [(setup, ranks) for ranks in counts for setup in engines(precision, alone=ranks == 1)]
    return [(writer, resumer) for writer in places for resumer in places]


def test_a_cover_of_engines_go_on_from_each_other_s_state(tmp_path: Path) -> None:
    pairs = cover()
    check(pairs, table(tmp_path, pairs))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_engine_goes_on_from_every_state_over_one_and_two_ranks(
    precision: str, tmp_path: Path
) -> None:
    pairs = everything(precision, 1, 2)
    check(pairs, table(tmp_path, pairs))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_states_of_two_ranks_are_resumed_by_four_and_back(tmp_path: Path) -> None:
    pairs = [
        (writer, resumer)
        for writer, resumer in everything("fp32", 2, 4)
        if writer[1] != resumer[1] and str(writer[0]) == str(resumer[0])
    ]
    check(pairs, table(tmp_path, pairs))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_four_ranks_go_on_with_equal_bits(precision: str, tmp_path: Path) -> None:
    pairs = [(place, place) for place in ((setup, 4) for setup in engines(precision, alone=False))]
    check(pairs, table(tmp_path, pairs))
