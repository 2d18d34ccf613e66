"""``forge`` where bf16 products are emulated: nothing is computed in it that nobody asked for."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
from bf16_emulated import WITHOUT_BF16
from forge_process import Workplace

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the variables are for x86"
)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that are started compute as on a CPU without bf16."""
    for name, value in WITHOUT_BF16.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("without_bf16")
def test_auto_measures_and_a_resume_elsewhere_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = Workplace(tmp_path, {"train.precision": "auto", "optimizer.name": "muon"})
    workplace.train("--set", "train.stop_at=4")
    first: dict[str, Any] = workplace.record["resolved"]
    assert first["precision"] == "fp32"
    assert first["matmul_speed"]["bf16_is_native"] is False
    assert first["matmul_speed"]["fp32"] > first["matmul_speed"]["bf16"] > 0
    for name in WITHOUT_BF16:
        monkeypatch.delenv(name)
    workplace.train("--set", "train.stop_at=8")
    again = workplace.record["resolved"]
    assert (again["precision"], again["matmul_speed"]) == ("fp32", first["matmul_speed"])
    assert workplace.record["notices"] == []


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.slow
def test_bf16_that_is_asked_for_is_computed_and_its_price_named(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, {"train.precision": "bf16"})
    done = workplace.train("--set", "train.stop_at=2")
    assert workplace.record["resolved"]["precision"] == "bf16"
    (notice,) = workplace.record["notices"]
    assert "times slower than fp32" in str(notice)
    assert "times slower than fp32" in done.output
    asked = workplace.forge("generate", "tiny", "--dtype", "bf16", "--prompt", "a")
    assert "--dtype bf16 costs time on this CPU" in asked.finish(expect=0).output
    plain = workplace.forge("generate", "tiny", "--prompt", "a")
    assert "--dtype" not in plain.finish(expect=0).output


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.slow
def test_muon_in_fp32_resumes_to_equal_bits(tmp_path: Path) -> None:
    settings = {"train.precision": "auto", "optimizer.name": "muon", "train.max_steps": "9"}
    straight = Workplace(tmp_path / "straight", settings)
    straight.train()
    stopped = Workplace(tmp_path / "stopped", settings)
    stopped.train("--set", "train.stop_at=4")
    stopped.train()
    assert stopped.result() == straight.result()
