"""What is native is measured once, by the leader, and kept; what is slow is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmforge.distributed import Alone, Place
from llmforge.interfaces import MatmulSpeed, Resolution
from llmforge.matmul_speed import measure_matmul_speed
from llmforge.run.setup import cpu_formats
from llmforge.testing import run_context

EMULATED = MatmulSpeed(bf16_is_native=False, fp32=108.0, bf16=2.7)
NATIVE = MatmulSpeed(bf16_is_native=True, fp32=108.0, bf16=420.0)
CPU = torch.device("cpu")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes this machine one of a certain speed, without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    def set_speed(speed: MatmulSpeed) -> None:
        monkeypatch.setattr(cpu_formats, "measure_matmul_speed", lambda: speed)

    return set_speed


def resolution(precision: str, device: str = "cpu") -> Resolution:
    return Resolution(device=device, precision=precision, compile=False, hardware="a CPU")


@pytest.mark.parametrize("speed", [EMULATED, NATIVE])
def test_the_first_start_takes_what_is_measured(
    speed: MatmulSpeed, here: Any, tmp_path: Path
) -> None:
    here(speed)
    run = cpu_formats.with_matmul_speed(run_context(tmp_path), team=Alone())
    assert run.matmul_speed == speed
    assert run.bf16_is_native(CPU) is speed.bf16_is_native


def test_a_resume_keeps_what_the_first_start_measured(here: Any, tmp_path: Path) -> None:
    here(NATIVE)
    kept = {"device": "cpu", "matmul_speed": {"bf16_is_native": False, "fp32": 9.0, "bf16": 1.0}}
    run = cpu_formats.with_matmul_speed(run_context(tmp_path, resolved=kept), team=Alone())
    assert run.matmul_speed == MatmulSpeed(bf16_is_native=False, fp32=9.0, bf16=1.0)
    assert not run.bf16_is_native(CPU)


def test_a_run_from_before_it_was_measured_stays_in_bf16(here: Any, tmp_path: Path) -> None:
    here(EMULATED)
    old = run_context(tmp_path, resolved={"device": "cpu", "precision": "fp32"})
    assert cpu_formats.with_matmul_speed(old, team=Alone()).bf16_is_native(CPU)


def test_ranks_take_the_leaders_measurement_and_make_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Follower(Alone):
        def __init__(self) -> None:
            super().__init__()
            self.place = Place(rank=1, world_size=2)

        def broadcast(self, value: Any, *, patient: bool = False) -> Any:
            del patient
            assert value is None
            return EMULATED

    monkeypatch.setattr(cpu_formats, "measure_matmul_speed", lambda: pytest.fail("measured"))
    run = cpu_formats.with_matmul_speed(run_context(tmp_path), team=Follower())
    assert run.matmul_speed == EMULATED


def test_a_run_on_a_gpu_measures_no_cpu(
    monkeypatch: pytest.MonkeyPatch, here: Any, tmp_path: Path
) -> None:
    here(NATIVE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("auto", "cuda:0"):
        run = run_context(tmp_path, train={"device": device})
        run = cpu_formats.with_matmul_speed(run, team=Alone())
        assert run.matmul_speed is None


def test_without_a_measurement_a_cpu_counts_as_one_without_bf16(tmp_path: Path) -> None:
    assert not run_context(tmp_path).bf16_is_native(CPU)
    known = run_context(tmp_path, matmul_speed=NATIVE)
    assert not known.bf16_is_native(torch.device("mps"))


def test_bf16_asked_for_where_it_is_slow_is_answered_with_the_factor(
    here: Any, tmp_path: Path
) -> None:
    here(EMULATED)
    run = run_context(tmp_path, train={"precision": "bf16"}, matmul_speed=EMULATED)
    warning = cpu_formats.slow_bf16(run, resolution("bf16"))
    assert warning is not None
    assert 'train.precision = "bf16"' in warning
    assert "40 times slower than fp32" in warning
    assert "2.7 GFLOP/s, fp32 at 108" in warning


def test_a_run_that_moved_away_from_native_bf16_says_what_it_costs(
    here: Any, tmp_path: Path
) -> None:
    here(EMULATED)
    run = run_context(tmp_path, train={"precision": "auto"}, matmul_speed=NATIVE)
    warning = cpu_formats.slow_bf16(run, resolution("bf16"))
    assert warning is not None
    assert "started with native bf16" in warning


@pytest.mark.parametrize(
    ("speed", "precision", "device"),
    [
        (EMULATED, "fp32", "cpu"),
        (NATIVE, "bf16", "cpu"),
        (MatmulSpeed(bf16_is_native=False, fp32=100.0, bf16=95.0), "bf16", "cpu"),
        (EMULATED, "bf16", "cuda:0"),
    ],
)
def test_what_is_not_slow_is_not_warned_of(
    speed: MatmulSpeed, precision: str, device: str, here: Any, tmp_path: Path
) -> None:
    here(speed)
    run = run_context(tmp_path, train={"precision": precision}, matmul_speed=speed)
    assert cpu_formats.slow_bf16(run, resolution(precision, device)) is None


def test_the_measurement_is_made_once_in_a_process() -> None:
    found = measure_matmul_speed()
    assert found is measure_matmul_speed()
    assert min(found.fp32, found.bf16) > 0
