"""What the sharding backends refuse before step 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmforge.errors import Problem
from llmforge.testing import make_component, run_context
from llmforge_plugins.backends.deepspeed import DeepSpeed
from llmforge_plugins.backends.fsdp import Fsdp


def problems(
    component: Any,
    directory: Path,
    options: dict[str, Any] | None = None,
    *,
    optimizer: str = "adamw",
    **train: Any,
) -> list[Problem]:
    run = run_context(directory, train=train, config={"optimizer": {"name": optimizer}})
    found: list[Problem] = make_component(component, options).forge_preflight(run=run)
    return found


@pytest.mark.parametrize("component", [Fsdp, DeepSpeed])
def test_an_ordinary_recipe_is_accepted(component: Any, tmp_path: Path) -> None:
    assert problems(component, tmp_path, precision="bf16") == []


@pytest.mark.parametrize("component", [Fsdp, DeepSpeed])
def test_muon_is_refused_with_what_to_take_instead(component: Any, tmp_path: Path) -> None:
    (problem,) = problems(component, tmp_path, optimizer="muon")
    assert problem.key == "optimizer.name"
    assert "whole matrices" in problem.message
    assert "adamw" in problem.remedy


@pytest.mark.parametrize("component", [Fsdp, DeepSpeed])
def test_fp16_is_refused(component: Any, tmp_path: Path) -> None:
    (problem,) = problems(component, tmp_path, precision="fp16")
    assert problem.key == "train.precision"


def test_compiling_is_refused_only_where_weights_are_gathered_by_hooks(tmp_path: Path) -> None:
    (problem,) = problems(DeepSpeed, tmp_path, {"stage": 3}, compile=True)
    assert problem.key == "train.compile"
    assert "auto" in problem.remedy
    assert problems(DeepSpeed, tmp_path, {"stage": 2}, compile=True) == []
    assert problems(DeepSpeed, tmp_path, {"stage": 3}, compile="auto") == []


@pytest.mark.parametrize(
    ("config", "key", "says"),
    [
        ({"gradient_clipping": 1.0}, "gradient_clipping", "set train.grad_clip instead"),
        ({"train_batch_size": 8}, "train_batch_size", "set train.batch_size instead"),
        ({"bf16": {"enabled": True}}, "bf16", "set train.precision instead"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage", "backend.deepspeed.stage"),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            "zero_optimization.offload_param.device",
            "set backend.deepspeed.offload_param instead",
        ),
        ({"zero_optimisation": {}}, "zero_optimisation", "did you mean 'zero_optimization'?"),
        ({"prescale_gradients": True}, "prescale_gradients", "not supported"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "zero_optimization.overlap_com",
            "unknown key",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": "many"}},
            "zero_optimization.reduce_bucket_size",
            "",
        ),
    ],
)
def test_keys_deepspeed_does_not_know_or_the_recipe_decides_are_named(
    config: dict[str, Any], key: str, says: str, tmp_path: Path
) -> None:
    (problem,) = problems(DeepSpeed, tmp_path, {"config": config})
    assert problem.key == f"backend.deepspeed.config.{key}"
    assert says in str(problem)


def test_deepspeed_s_own_keys_pass(tmp_path: Path) -> None:
    config = {
        "zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 5e7},
        "communication_data_type": "bf16",
        "wall_clock_breakdown": True,
    }
    assert problems(DeepSpeed, tmp_path, {"config": config}) == []


@pytest.mark.parametrize(
    "options",
    [
        {"stage": 4},
        {"stage": 0, "offload_optimizer": "cpu"},
        {"stage": 2, "offload_param": "cpu"},
        {"stage": 2, "offload_optimizer": "nvme", "nvme_path": "/tmp"},
        {"stage": 3, "offload_optimizer": "nvme"},
    ],
)
def test_offloading_that_a_stage_does_not_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_component(DeepSpeed, options)


def test_offloading_to_disk_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders = pytest.importorskip("deepspeed.ops.op_builder")
    monkeypatch.setattr(builders.AsyncIOBuilder, "is_compatible", lambda *_, **__: False)
    options = {"stage": 3, "offload_optimizer": "nvme", "nvme_path": str(tmp_path)}
    (problem,) = problems(DeepSpeed, tmp_path, options)
    assert "libaio" in str(problem)


def test_a_missing_package_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = make_component(DeepSpeed)
    monkeypatch.setattr("llmforge.component.importable", lambda module: module != "deepspeed")
    (problem,) = component.missing_packages()
    assert problem.remedy == "pip install 'deepspeed>=0.17'"
    assert component.forge_preflight(run=run_context(tmp_path, config={})) == []
