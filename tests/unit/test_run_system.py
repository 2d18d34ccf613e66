"""System metrics: told at most once a step, kept as rows, never from the step thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from llmforge.events import MetricsLogged
from llmforge.run.reporting import system_metrics as system
from llmforge.run.reporting.metrics_files import read_rows
from llmforge.run.reporting.system_metrics import SystemProbe, SystemSampler


class Teller:
    """Gives the events out at a step that the test sets."""

    def __init__(self) -> None:
        self.step = 0
        self.told: list[MetricsLogged] = []
        self.threads: set[str] = set()

    def __call__(self, make: Callable[[int], MetricsLogged | None]) -> None:
        self.threads.add(threading.current_thread().name)
        event = make(self.step)
        if event is not None:
            self.told.append(event)


class Numbers:
    """Reads 1, 2, 3 …; each read may move the step on, or fail."""

    def __init__(self, *moves: Callable[[], None]) -> None:
        self.moves = list(moves)
        self.reads = 0
        self.done = threading.Event()

    def __call__(self) -> Mapping[str, float]:
        if self.moves:
            self.moves.pop(0)()
        self.reads += 1
        if not self.moves:
            self.done.set()
        return {"system/x": float(self.reads)}


def sample(path: Path, teller: Teller, *moves: Callable[[], None]) -> Numbers:
    """Take a sample per move, a millisecond apart."""
    numbers = Numbers(*moves)
    with SystemSampler(numbers, every=0.001, path=path, tell=teller):
        assert numbers.done.wait(10)
    return numbers


def at(teller: Teller, step: int) -> Callable[[], None]:
    return lambda: setattr(teller, "step", step)


def test_samples_of_one_step_are_told_as_their_mean_once_the_step_has_moved(tmp_path: Path) -> None:
    teller = Teller()
    sampler = SystemSampler(
        Numbers(at(teller, 5), at(teller, 5), at(teller, 5), at(teller, 6), at(teller, 7)),
        every=1.0,
        path=tmp_path / "rows",
        tell=teller,
    )
    for _ in range(5):
        sampler._sample()
    assert [(event.step, event.values["system/x"]) for event in teller.told] == [
        (5, 1.0),
        (6, 3.0),  # of 2, 3 and 4
        (7, 5.0),
    ]


def test_every_sample_is_a_row(tmp_path: Path) -> None:
    teller = Teller()
    sample(tmp_path / "rows", teller, at(teller, 1), at(teller, 1), at(teller, 2))
    rows = list(read_rows(tmp_path / "rows"))
    assert [(row["step"], row["system/x"]) for row in rows[:3]] == [(1, 1.0), (1, 2.0), (2, 3.0)]
    assert all(abs(time.time() - row["time"]) < 60 for row in rows)


def test_it_samples_in_a_thread_of_its_own_that_ends_with_the_block(tmp_path: Path) -> None:
    teller = Teller()
    sample(tmp_path / "rows", teller, at(teller, 1))
    assert teller.threads == {"forge-system"}
    assert "forge-system" not in {thread.name for thread in threading.enumerate()}


def test_a_short_run_has_a_sample_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_SHORTEST_SECONDS", 0.0)
    teller = Teller()
    with SystemSampler(Numbers(), every=3600.0, path=tmp_path / "rows", tell=teller):
        teller.step = 9
    assert [event.step for event in teller.told] == [9]


def test_zero_seconds_take_no_sample_and_write_no_file(tmp_path: Path) -> None:
    teller = Teller()
    with SystemSampler(Numbers(), every=0.0, path=tmp_path / "rows", tell=teller):
        pass
    assert teller.told == []
    assert not (tmp_path / "rows").exists()


def test_a_failure_ends_the_samples_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no room")

    numbers = Numbers(lambda: None, fail)
    with SystemSampler(numbers, every=0.001, path=tmp_path / "rows", tell=Teller()) as sampler:
        sampler._thread.join(10)
        assert not sampler._thread.is_alive()
    assert numbers.reads == 1
    assert "system metrics have stopped: OSError: no room" in caplog.text


def test_the_machine_is_read(tmp_path: Path) -> None:
    values = SystemProbe(disk=tmp_path, device="cpu").read()
    assert set(values) == {
        "system/cpu_percent",
        "system/process_cpu_percent",
        "system/memory_percent",
        "system/memory_available_gb",
        "system/process_memory_gb",
        "system/disk_free_gb",
    }
    assert 0 <= values["system/cpu_percent"] <= 100
    assert 0.01 < values["system/process_memory_gb"] < 100


@pytest.mark.parametrize("measurable", [True, False])
def test_a_gpu_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measurable: bool
) -> None:
    """torch.cuda is stood in for: machines that run these tests need no GPU."""

    def utilisation(device: object) -> int:
        if not measurable:
            raise ModuleNotFoundError("pynvml does not seem to be installed")
        return 87

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1_500_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3_500_000_000)
    monkeypatch.setattr(torch.cuda, "utilization", utilisation)
    values = SystemProbe(disk=tmp_path, device="cuda:0").read()
    assert values["system/gpu_memory_gb"] == 2.0
    assert values["system/gpu_memory_percent"] == 25.0
    assert values["system/gpu_memory_allocated_gb"] == 1.5
    assert values["system/gpu_memory_peak_gb"] == 3.5
    assert values.get("system/gpu_percent") == (87.0 if measurable else None)
