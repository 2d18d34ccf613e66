"""What this machine or these ranks cannot train is told, all at once, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import llmforge
from llmforge import api
from llmforge.distributed import Alone, Place
from llmforge.errors import Problem, RecipeError, UsageError
from llmforge.generation import open_checkpoint
from llmforge.recipe import load_recipe
from llmforge.run.plan import Components, Plan, make_plan
from llmforge.run.setup.preflight import require_all_ready, require_ready
from llmforge.rundir import RunDirectory, read_record
from llmforge_plugins.backends._needs import sharding_problems

NO_GPU = "train.device: 'cuda' is not available: PyTorch finds 0 CUDA devices"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FORGE_OFFLINE", "1")


def plan_of(*overrides: str) -> Plan:
    settings = ["tracker.names=[]", "run.id=r", *overrides]
    return make_plan(load_recipe("wikitext_tiny", overrides=settings))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.device=cuda"], NO_GPU),
        (["train.device=mps"], "train.device: 'mps' is not available: PyTorch finds no Apple GPU"),
        (["train.precision=fp16"], "train.precision: 'fp16' needs a CUDA device"),
        (["backend.name=ddp", "train.device=cuda"], NO_GPU),
        (["backend.name=fsdp", "train.device=cuda"], NO_GPU),
        (["backend.name=deepspeed", "train.device=cuda"], NO_GPU),
    ],
)
def test_it_is_told_before_data_are_opened_and_kept_as_the_reason(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("llmforge.run.setup.set_up.prepare_data", lambda *_, **__: opened.append(1))
    with pytest.raises(RecipeError) as caught:
        llmforge.train(plan_of(*overrides).recipe)
    assert message in str(caught.value)
    assert opened == []
    assert not (tmp_path / "cache").exists()
    directory = RunDirectory(tmp_path / "runs" / "r")
    assert message in read_record(directory).exit_reason
    (said,) = (
        line for line in directory.path.joinpath("log.txt").open() if " ERROR failed " in line
    )
    assert message in said


def test_what_to_start_from_is_looked_for_before_data_are_opened(tmp_path: Path) -> None:
    named = "model.transformer.init_from=gpt2-smal"
    recipe = plan_of("model.transformer={}", named, "tokenizer.name=from-model").recipe
    with pytest.raises(RecipeError) as caught:
        llmforge.train(recipe)
    (problem,) = caught.value.problems
    assert problem.key == "model.transformer.init_from"
    assert f"there is no folder {Path.cwd()}/gpt2-smal, 'forge models list'" in problem.message
    assert "the hub cannot be asked: offline mode is on (FORGE_OFFLINE" in problem.message
    assert problem.remedy.startswith("did you mean 'gpt2-small'?")
    assert str(recipe.source) in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_all_problems_come_at_once_the_trackers_too() -> None:
    plan = plan_of("train.device=cuda", "train.batch_size=9")
    tracker = Problem(key="tracker.x", message="no login")
    with pytest.raises(RecipeError) as caught:
        require_ready(
            plan,
            Components(plan),
            resolved={},
            team=Ranks([]),
            notice=print,
            also=lambda: [tracker],
        )
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["train.batch_size", "train.device", "tracker.x"]


class Ranks(Alone):
    """Rank 0 of several, the others with problems that are given."""

    def __init__(self, *others: Sequence[Problem]) -> None:
        self.place = Place(world_size=1 + len(others))
        self._others = others

    def gather(self, value: Any) -> Any:
        return [value, *self._others]


@pytest.mark.parametrize(("world_size", "refused"), [(2, False), (3, True)])
def test_a_batch_that_the_ranks_cannot_share_is_refused(world_size: int, refused: bool) -> None:
    plan = plan_of("train.batch_size=8", "train.device=cpu", "backend.name=ddp")
    team = Ranks(*([] for _ in range(world_size - 1)))
    found = ""
    try:
        require_ready(plan, Components(plan), resolved={}, team=team, notice=print)
    except RecipeError as error:
        found = str(error)
    assert ("8 sequences cannot be divided among 3 ranks" in found) is refused


def test_what_one_rank_alone_finds_stops_all_and_names_it() -> None:
    plan = plan_of("train.device=cpu", "train.batch_size=9")
    alone, shared = (Problem(key="x", message=text) for text in ("no GPU", "no package"))
    team = Ranks([shared], [alone, shared])
    with pytest.raises(RecipeError) as caught:
        require_ready(
            plan, Components(plan), resolved={}, team=team, notice=print, also=lambda: [shared]
        )
    assert [(item.where, item.message) for item in caught.value.problems] == [
        ("", "no package"),
        ("rank 2", "no GPU"),
    ]


def test_the_backend_of_one_process_refuses_several() -> None:
    plan = plan_of("backend.name=single", "train.batch_size=8")
    with pytest.raises(RecipeError, match="'single' is for one process, and there are 2"):
        require_ready(plan, Components(plan), resolved={}, team=Ranks([]), notice=print)


def test_more_processes_than_gpus_are_refused_with_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    plan = plan_of("train.batch_size=8")
    place = Place(rank=1, local_rank=1, world_size=2, local_world_size=2)
    with pytest.raises(RecipeError) as caught:
        require_all_ready(plan, place=place, notice=print)
    (problem,) = caught.value.problems
    assert problem.message == "process 2 of this machine has no GPU: PyTorch finds 1 CUDA device"
    assert "--nproc-per-node" in problem.remedy


@pytest.mark.parametrize("backend", ["fsdp", "deepspeed"])
def test_a_gpu_where_auto_is_fp16_is_refused_by_backends_that_cannot_scale(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    run = plan_of().context(resolved={}, notice=print)
    (problem,) = sharding_problems(run, backend=backend)
    assert problem.message == f"backend '{backend}' has no loss scaling, which fp16 needs"


def test_a_checkpoint_is_not_fetched_for_a_run_that_cannot_be_resumed_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("llmforge.generation.locate", lambda *_, **__: fetched.append("it"))
    with pytest.raises(RecipeError, match=r"train\.device: 'cuda'"):
        api.train(plan_of("train.device=cuda").recipe, resume="mlflow:0123@2")
    assert fetched == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda"}, "this machine has no cuda: it has 0 CUDA devices"),
        ({"device": "cpu", "dtype": "fp8"}, "--dtype must be"),
    ],
)
def test_a_checkpoint_is_not_fetched_for_a_device_that_is_not_there(
    arguments: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("llmforge.generation.load.locate", lambda *_, **__: fetched.append("it"))
    with pytest.raises(UsageError, match=message):
        open_checkpoint("mlflow:0123", root=tmp_path, **arguments)
    assert fetched == []
