"""How ``auto`` becomes a device, a precision and compilation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmforge.errors import RecipeError
from llmforge.interfaces import MatmulSpeed, Resolution
from llmforge.testing import run_context
from llmforge_plugins.backends import _resolve

AUTO = {"device": "auto", "precision": "auto", "compile": "auto"}
SPEEDS = {
    True: MatmulSpeed(bf16_is_native=True, fp32=100.0, bf16=400.0),
    False: MatmulSpeed(bf16_is_native=False, fp32=100.0, bf16=3.0),
}


def resolved(directory: Path, train: dict[str, Any], **run: Any) -> Resolution:
    return _resolve.resolve(run_context(directory, train=train, **run))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every machine one without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_computes_in_bf16_only_where_it_is_measured_to_be_native(
    native: bool, precision: str, tmp_path: Path
) -> None:
    found = resolved(tmp_path, AUTO, matmul_speed=SPEEDS[native])
    assert (found.device, found.precision, found.compile) == ("cpu", precision, False)
    assert str(SPEEDS[native]) in found.reasons[1]


def test_every_decision_has_a_reason_and_the_hardware_a_name(tmp_path: Path) -> None:
    found = resolved(tmp_path, AUTO)
    assert [reason.split()[0] for reason in found.reasons] == ["device", "precision", "compile"]
    assert "thread" in found.hardware


def test_the_recipe_decides_what_it_names(tmp_path: Path) -> None:
    found = resolved(tmp_path, {"device": "cpu", "precision": "bf16", "compile": True})
    assert (found.device, found.precision, found.compile) == ("cpu", "bf16", True)
    assert all("as the recipe says" in reason for reason in found.reasons)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resume_keeps_what_auto_became(precision: str, tmp_path: Path) -> None:
    kept = {"device": "cpu", "precision": precision, "compile": True}
    found = resolved(tmp_path, AUTO, resolved=kept, matmul_speed=SPEEDS[precision == "fp32"])
    assert (found.device, found.precision, found.compile) == ("cpu", precision, True)
    assert all("as before the resume" in reason for reason in found.reasons)


def test_a_resume_without_the_device_of_before_moves_to_one_that_is_there(tmp_path: Path) -> None:
    kept = {"device": "cuda:0", "precision": "bf16", "compile": False}
    found = resolved(tmp_path, AUTO, resolved=kept)
    assert (found.device, found.precision) == ("cpu", "bf16")


def test_long_runs_on_cuda_are_compiled_and_short_ones_not(tmp_path: Path) -> None:
    cuda = torch.device("cuda:0")
    for steps, expected in ((100, False), (100_000, True)):
        run = run_context(tmp_path, train=AUTO, total_steps=steps)
        assert _resolve._compile(run, cuda, {})[0] is expected


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"train.device: '{device}' is not available"):
        resolved(tmp_path, {"device": device})


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.precision: 'fp16' needs"):
        resolved(tmp_path, {"precision": "fp16"})
