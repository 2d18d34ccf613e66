"""The engine of one device: exactness, resumption, limits; its contract is tested elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_parts import small_model, tokens

from llmforge.errors import CheckpointError, RunError
from llmforge.interfaces import EngineState
from llmforge.testing import make_component, run_context
from llmforge_plugins.backends import _engine
from llmforge_plugins.backends._auto import count_weights, fits
from llmforge_plugins.backends.auto import Auto
from llmforge_plugins.backends.single import Single
from llmforge_plugins.optimizers.adamw import AdamW
from llmforge_plugins.optimizers.muon import Muon


def engine_of(
    directory: Path,
    *,
    train: Mapping[str, Any] | None = None,
    optimizer: type = AdamW,
    backend: type = Single,
    model: Mapping[str, Any] | None = None,
    build: Callable[[Any], torch.optim.Optimizer] | None = None,
    **run: Any,
) -> Any:
    """Return an engine over the small transformer."""
    context = run_context(directory, train=train, **run)
    component = make_component(optimizer)

    def build_optimizer(named: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        if build is not None:
            return build([{"params": [p for _, p in named], "initial_lr": 0.1}])
        return component.forge_build_optimizer(run=context, parameters=named)

    return (
        make_component(backend)
        .forge_build_backend(run=context)
        .prepare(
            lambda: small_model(**(model or {})),
            build_optimizer,
            lambda step: 1.0 / (1 + step),
        )
    )


def train_steps(engine: Any, steps: range, *, micro_batches: int = 2) -> None:
    for step in steps:
        for part in range(micro_batches):
            number = step * micro_batches + part
            batch = {"inputs": tokens(2, 12, number), "targets": tokens(2, 12, number + 1000)}
            engine.accumulate(
                batch, targets=2 * 12 * micro_batches, seed=number, last=part == micro_batches - 1
            )
        engine.step(step)


def copied(state: EngineState) -> EngineState:
    def clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    return EngineState(clone(state.model), clone(state.optimizer), dict(state.values))


def assert_equal_bits(left: EngineState, right: EngineState) -> None:
    for mine, theirs in ((left.model, right.model), (left.optimizer, right.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [AdamW, Muon])
def test_a_run_saved_and_restored_in_the_middle_ends_with_equal_bits(
    precision: str, optimizer: type, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "train": {"precision": precision, "grad_clip": 0.5},
        "optimizer": optimizer,
        "model": {"dropout": 0.1},
    }
    whole = engine_of(tmp_path, **changes)
    train_steps(whole, range(3))
    middle = copied(whole.state())
    train_steps(whole, range(3, 6))
    resumed = engine_of(tmp_path, **changes)
    resumed.load_state(middle)
    train_steps(resumed, range(3, 6))
    assert_equal_bits(whole.state(), resumed.state())


def test_loading_copies_the_state_instead_of_sharing_it(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    train_steps(engine, range(2))
    kept = copied(engine.state())
    other = engine_of(tmp_path)
    other.load_state(kept)
    train_steps(other, range(2, 4))
    assert_equal_bits(engine.state(), kept)


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    batch = {"inputs": tokens(4, 12), "targets": tokens(4, 12, seed=4)}
    engine.accumulate(batch, targets=48, seed=0, last=True)
    whole = {name: p.grad.clone() for name, p in engine.model.named_parameters()}
    engine.discard()
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        engine.accumulate(part, targets=48, seed=0, last=True)
    for name, parameter in engine.model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_reported(tmp_path: Path) -> None:
    def norms(grad_clip: float) -> tuple[float, float]:
        engine = engine_of(tmp_path, train={"grad_clip": grad_clip})
        seen = []
        engine.optimizer.register_step_pre_hook(
            lambda *_: seen.append(
                torch.nn.utils.get_total_norm([p.grad for p in engine.model.parameters()])
            )
        )
        batch = {"inputs": tokens(2, 12), "targets": tokens(2, 12, 9)}
        engine.accumulate(batch, targets=24, seed=0, last=True)
        result = engine.step(0)
        return float(seen[0]), float(result.grad_norm)

    free, norm = norms(0.0)
    assert free == pytest.approx(norm)
    clipped, norm_before = norms(norm / 4)
    assert norm_before == pytest.approx(norm)
    assert clipped == pytest.approx(norm / 4, rel=1e-4)
    assert norms(norm * 4)[0] == pytest.approx(norm)


def test_bf16_computes_in_bf16_and_keeps_everything_in_fp32(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, train={"precision": "bf16"})
    seen = set()
    engine.model.blocks[0].feed_forward.down.register_forward_hook(
        lambda _module, _inputs, output: seen.add(output.dtype)
    )
    train_steps(engine, range(1))
    assert seen == {torch.bfloat16}
    state = engine.state()
    assert {t.dtype for t in (*state.model.values(), *state.optimizer.values())} == {torch.float32}


def test_a_gradient_that_is_not_finite_is_noticed(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    train_steps(engine, range(1))
    assert engine.finite()
    next(engine.model.parameters()).grad = None
    batch = {"inputs": tokens(2, 12), "targets": tokens(2, 12, 9)}
    engine.accumulate(batch, targets=24, seed=0, last=True)
    next(iter(engine.model.parameters())).grad[0, 0] = float("inf")
    engine.step(1)
    assert not engine.finite()
    train_steps(engine, range(2, 3))
    assert not engine.finite()


def test_running_out_of_memory_on_the_cpu_is_the_error_the_core_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tmp_path)
    huge = torch.zeros(1).expand(2**50)
    monkeypatch.setattr(engine, "_loss", lambda _batch: (huge.clone(), torch.ones(())))
    batch = {"inputs": tokens(1, 2), "targets": tokens(1, 2)}
    with pytest.raises(torch.OutOfMemoryError):
        engine.accumulate(batch, targets=2, seed=0, last=True)
    monkeypatch.setattr(engine.model, "loss", lambda _batch: (huge.clone(), torch.ones(())))
    with pytest.raises(torch.OutOfMemoryError):
        engine.evaluate(batch)
    assert engine.model.training


def test_other_errors_of_the_model_pass_unchanged(tmp_path: Path) -> None:
    batch = {"inputs": tokens(1, 5), "targets": tokens(1, 4)}
    with pytest.raises((RuntimeError, ValueError)) as caught:
        engine_of(tmp_path).accumulate(batch, targets=2, seed=0, last=True)
    assert not isinstance(caught.value, torch.OutOfMemoryError)


def _damaged(state: EngineState, part: str, change: Any) -> EngineState:
    tensors = {"model": dict(state.model), "optimizer": dict(state.optimizer)}
    change(tensors[part])
    return EngineState(tensors["model"], tensors["optimizer"], state.values)


def _rename(tensors: dict[str, Tensor]) -> None:
    name = next(iter(tensors))
    tensors["other/" + name] = tensors.pop(name)


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors[next(iter(tensors))]


def _cut(tensors: dict[str, Tensor]) -> None:
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    tensors[name] = tensors[name][:1]


@pytest.mark.parametrize("part", ["model", "optimizer"])
@pytest.mark.parametrize("change", [_rename, _drop, _cut])
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    part: str, change: Any, tmp_path: Path
) -> None:
    engine = engine_of(tmp_path)
    train_steps(engine, range(1))
    before = copied(engine.state())
    with pytest.raises(CheckpointError, match=r"embedding\.weight"):
        engine.load_state(_damaged(before, part, change))
    assert_equal_bits(engine.state(), before)


def test_parameters_without_state_are_known_and_may_stay_so(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    # as of a parameter that a step does not reach
    weight = engine.model.norm.weight
    weight.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    train_steps(engine, range(2))
    state = copied(engine.state())
    assert not any(name.startswith("norm.weight/") for name in state.optimizer)
    resumed = engine_of(tmp_path)
    resumed.load_state(state)
    assert_equal_bits(resumed.state(), state)


class CountingSgd(torch.optim.SGD):
    """Keeps a Python number in its state, as some optimizers do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                state["decay"] = state.get("decay", 1.0) * 0.9
        return super().step(closure)


def test_python_numbers_in_optimizer_state_travel_as_tensors_and_come_back(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, build=CountingSgd)
    train_steps(engine, range(2))
    state = copied(engine.state())
    count = state.optimizer["norm.weight/count"]
    assert (count.dtype, count.item()) == (torch.int64, 2)
    resumed = engine_of(tmp_path, build=CountingSgd)
    resumed.load_state(state)
    entries = resumed.optimizer.state[resumed.model.norm.weight]
    assert entries["count"] == 2 and type(entries["count"]) is int
    assert entries["decay"] == pytest.approx(0.81) and type(entries["decay"]) is float


def test_auto_is_the_single_backend_for_one_process(tmp_path: Path) -> None:
    assert type(engine_of(tmp_path, backend=Auto)) is _engine.SingleEngine


def test_several_processes_that_nobody_connected_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not connected"):
        engine_of(tmp_path, backend=Auto, world_size=2)


def test_auto_shards_a_model_that_does_not_fit_whole() -> None:
    gibibyte = 2**30
    assert fits(1_200_000_000, memory=80 * gibibyte)
    assert not fits(7_000_000_000, memory=80 * gibibyte)


def test_weights_are_counted_without_memory_for_them() -> None:
    assert count_weights(lambda: torch.nn.Linear(2**22, 2**22, bias=False)) == 2**44


@pytest.mark.slow
def test_compiled_training_equals_eager_training(tmp_path: Path) -> None:
    eager = engine_of(tmp_path)
    compiled = engine_of(tmp_path, train={"compile": True})
    for engine in (eager, compiled):
        train_steps(engine, range(2))
    for name, tensor in eager.state().model.items():
        torch.testing.assert_close(compiled.state().model[name], tensor, rtol=1e-3, atol=1e-4)


def test_freed_memory_is_kept_by_the_process(tmp_path: Path) -> None:
    """Page faults show whether glibc maps the same block again every time."""
    code = (
        "import resource, torch\n"
        "from llmforge_plugins.backends._resolve import keep_freed_memory\n"
        "def faults():\n"
        "    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5):\n"
        "        torch.ones(16_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start\n"
        "before, kept = faults(), keep_freed_memory()\n"
        "for _ in range(4):\n"
        "    faults()\n"
        "after = faults()\n"
        "assert not kept or after < before / 4, (before, after)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
