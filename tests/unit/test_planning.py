"""The memory plan: what is traced is what real steps allocate, and what fits really fits."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmforge.cli.app import main
from llmforge.cli.plan import parse_size
from llmforge.errors import RunError, UsageError
from llmforge.planning import trace
from llmforge.planning.plan import MemoryPlan, plan_memory
from llmforge.planning.plan_text import as_text
from llmforge.planning.strategies import STRATEGIES, Case
from llmforge.planning.tensor_memory import MemoryLedger
from llmforge.planning.trace import FakeTraining
from llmforge.recipe import Recipe, load_recipe

VOCABULARY = 2048
MEGABYTE = 10**6


def recipe(**changes: Any) -> Recipe:
    """Return the smallest custom recipe with batches of 8 × 64 tokens in fp32."""
    keys = {
        "model__transformer__context": 64,
        "tokenizer__bpe__vocab_size": VOCABULARY,
        "train__precision": "fp32",
        "train__batch_size": 8,
        **changes,
    }
    found = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in keys.items()]
    return load_recipe("custom_nano", overrides=found)


def traced(source: Recipe, precision: str = "fp32") -> FakeTraining:
    return FakeTraining(source, vocabulary=VOCABULARY, precision=precision, device="cpu")


def planned(source: Recipe, **arguments: Any) -> MemoryPlan:
    return plan_memory(source, **{"memory_limit": 100 * MEGABYTE, **arguments})


def given_out(work: Callable[[], object]) -> int:
    """Return the most bytes that PyTorch's allocator had given out at once during ``work``."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


class NoFakes:
    """Stands in for PyTorch's fake mode, so that the same step is taken with real tensors."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("fp32", {}),
        ("bf16", {}),
        ("fp32", {"optimizer__name": "muon"}),
        ("bf16", {"train__activation_checkpointing": "full"}),
    ],
)
def test_a_step_takes_from_the_allocator_what_was_predicted(
    precision: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recipe(**changes)
    predicted = traced(source, precision).step(8, accumulates=True)
    monkeypatch.setattr(trace, "FakeTensorMode", NoFakes)
    real: list[trace.StepMemory] = []

    def train() -> None:
        real.append(traced(source, precision).step(8, accumulates=True))

    assert predicted.total == pytest.approx(given_out(train), rel=0.03)
    assert real == [predicted]


def test_weights_gradients_and_moments_are_what_the_optimizer_holds() -> None:
    training = traced(recipe())
    sizes, step = training.sizes(), training.step(2, accumulates=True)
    assert sizes.parameters == sum(p.numel() for p in training.module.parameters())
    buffers = sum(buffer.numel() * 4 for buffer in training.module.buffers())
    assert step.weights == sizes.weight_bytes == sizes.parameters * 4 + buffers
    assert step.gradients == sizes.parameters * 4
    assert sizes.parameters * 8 <= step.optimizer < sizes.parameters * 8 + 1000
    assert step.copies == 0
    assert sizes.outside_blocks == VOCABULARY * 128 + 128
    assert sizes.largest_block * 3 == sizes.parameters - sizes.outside_blocks


def test_under_an_adapter_only_what_trains_has_gradients_and_moments() -> None:
    training = traced(recipe(adapter__name="lora"))
    trained = sum(p.numel() for p in training.module.parameters() if p.requires_grad)
    sizes, step = training.sizes(), training.step(2, accumulates=True)
    assert 0 < trained < sizes.parameters / 2
    assert sizes.parameters == sum(p.numel() for p in training.module.parameters())
    assert step.gradients == trained * 4
    assert trained * 8 <= step.optimizer < trained * 8 + 1000
    assert not any(tensor.is_meta for tensor in training.module.state_dict().values())


def test_autocast_keeps_copies_of_the_weights_and_halves_activations() -> None:
    wide, narrow = (traced(recipe(), name).step(8, accumulates=True) for name in ("fp32", "bf16"))
    assert 0 < narrow.copies <= narrow.weights / 2
    assert narrow.activations < wide.activations * 0.75


def test_activations_grow_with_the_micro_batch_and_the_rest_does_not() -> None:
    training = traced(recipe())
    one, two, four = (training.step(size, accumulates=True) for size in (1, 2, 4))
    assert four.activations - two.activations == 2 * (two.activations - one.activations)
    assert (one.weights, one.gradients, one.optimizer) == (
        four.weights,
        four.gradients,
        four.optimizer,
    )


def test_a_step_of_one_micro_batch_has_no_gradients_while_activations_are_many() -> None:
    training = traced(recipe())
    once, again = (training.step(8, accumulates=flag) for flag in (False, True))
    assert once.gradients < again.gradients
    assert once.total < again.total


def test_blocks_that_are_computed_again_keep_their_inputs_only() -> None:
    kept, second, none = (
        traced(recipe(train__activation_checkpointing=asked)).step(8, accumulates=True)
        for asked in ("none", 2, "full")
    )
    assert none.activations < second.activations < kept.activations
    assert (none.weights, none.optimizer) == (kept.weights, kept.optimizer)


def test_a_ledger_counts_a_storage_once_and_until_it_is_freed() -> None:
    ledger = MemoryLedger(vocabulary=7)

    def work() -> None:
        first = torch.zeros(1000)
        seen = first.view(10, 100)
        second = torch.zeros(7, 10)
        del first, seen
        assert ledger.live["activations"] == 0
        assert ledger.live["logits"] == 280
        del second

    peak = ledger.peak_of(work)
    assert (peak["activations"], peak["logits"]) == (4000, 280)
    assert sum(ledger.live.values()) == 0


def test_a_model_that_looks_at_values_is_refused() -> None:
    training = traced(recipe())

    def loss(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(int(batch["inputs"].sum().item()), requires_grad=True), batch["inputs"]

    training.model.loss = loss  # type: ignore[method-assign,assignment]
    with pytest.raises(RunError, match="cannot be planned, because it looks at values"):
        training.step(1, accumulates=False)


# Spreading ------------------------------------------------------------------------------------


def spread(ranks: int, *, width: int = 2, accumulates: bool = True) -> dict[str, Any]:
    training = traced(recipe(), "bf16" if width == 2 else "fp32")
    case = Case(
        step=training.step(2, accumulates=accumulates),
        sizes=training.sizes(),
        ranks=ranks,
        width=width,
        accumulates=accumulates,
    )
    return {name: strategy(case) for name, strategy in STRATEGIES.items()}


def test_each_stage_leaves_less_on_a_rank_and_the_activations_alone() -> None:
    found = spread(8)
    stages = [found[f"deepspeed {stage}"] for stage in range(4)]
    assert stages[0] == found["single"]
    assert stages[1].optimizer < stages[0].optimizer / 4  # fp32 weights are there, too
    assert stages[2].weights == stages[1].weights < stages[0].weights
    assert stages[2].gradients < stages[1].gradients
    # a bucket of fp32 gradients instead of bf16 ones
    assert stages[3].gradients == stages[2].gradients + stages[2].weights
    # so few weights that DeepSpeed frees none of the whole ones
    assert stages[3].weights == pytest.approx(stages[2].weights * 9 / 8, abs=8)
    totals = [stage.total for stage in stages[:3]]
    assert totals == sorted(totals, reverse=True)
    assert len({(row.activations, row.logits) for row in found.values()}) == 1
    beside = found["ddp"].gradients - found["single"].gradients
    assert beside == found["single"].gradients  # the buckets, as large as all gradients
    assert found["ddp"].total == found["single"].total + beside


def test_whole_gradients_stay_on_a_rank_while_fsdp_accumulates() -> None:
    found = spread(8)
    kept, exchanged = found["fsdp"], found["fsdp, reduce each"]
    assert kept.gradients > 1.5 * exchanged.gradients
    assert kept.weights == exchanged.weights < found["ddp"].weights
    alone = spread(8, accumulates=False)
    assert alone["fsdp"] == alone["fsdp, reduce each"]


def test_one_rank_has_nothing_to_gather() -> None:
    found = spread(1, width=4)
    assert found["fsdp"].total == found["single"].total


# What fits ------------------------------------------------------------------------------------


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    source = recipe(train__batch_size=24)
    plan = planned(source, memory_limit=45 * MEGABYTE)
    row = plan.rows[0]
    assert row.largest is not None
    assert row.largest * row.accumulated * row.ranks == 24
    sizes = [1, 2, 3, 4, 6, 8, 12, 24]
    training = traced(source)
    needs = [training.step(size, accumulates=size < 24).total for size in sizes]
    fitting = [size for size, need in zip(sizes, needs, strict=True) if need <= plan.usable]
    assert row.largest == fitting[-1] not in (1, 24)


def test_what_fits_nowhere_is_said() -> None:
    plan = planned(recipe(), memory_limit=MEGABYTE)
    assert {row.largest for row in plan.rows} == {None}
    assert as_text(plan).count("  none\n") == len(STRATEGIES)


def test_the_batch_stays_the_same_over_any_number_of_ranks() -> None:
    plan = planned(recipe(train__micro_batch_size=4), ranks=4)
    for row in plan.rows:
        assert row.ranks == (1 if row.strategy == "single" else 4)
        assert row.micro_batch == (4 if row.strategy == "single" else 2)
        assert row.largest is not None
        assert row.largest * (row.accumulated or 0) * row.ranks == 8
    with pytest.raises(UsageError, match="8 sequences cannot be divided among 3 ranks"):
        planned(recipe(), ranks=3)


def test_the_micro_batch_may_follow_from_the_accumulation() -> None:
    plan = planned(recipe(train__accumulation=2), ranks=2)
    assert {row.strategy: row.micro_batch for row in plan.rows} == {
        name: 4 if name == "single" else 2 for name in STRATEGIES
    }


def test_the_table_fits_a_terminal_and_tells_the_sizes() -> None:
    plan = planned(recipe(), ranks=8, memory_limit=80 * 10**9)
    text = as_text(plan)
    assert max(len(line) for line in text.splitlines() if not line.startswith(plan.source)) <= 100
    assert f"{plan.sizes.parameters:,}" in text
    assert "8 sequences x 64 = 512 tokens a step" in text
    assert "8 = 1 x 1 x 8" in text
    assert plan.flops_per_step == plan.sizes.flops_per_token * 512


def test_epochs_have_a_length_only_with_data() -> None:
    plan = planned(load_recipe("wikitext2", overrides=["tokenizer.bpe.vocab_size=1024"]))
    assert plan.steps is None
    assert "known with the data" in as_text(plan)


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), ("1.5gb", 1_500_000_000)]
)
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "80 bananas", "0GB", "-1GB", ""])
def test_what_is_no_size_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a memory size"):
        parse_size(text)


def test_a_vocabulary_comes_from_a_ready_tokenizer_or_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(recipe(tokenizer__name="bytes")).vocabulary == 257
    command = ["forge", "plan", "custom_nano", "--vocab-size", "999", "--json", "-p", "test"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    body = json.loads(capsys.readouterr().out)
    assert body["vocabulary"] == 999
    row = body["rows"][0]
    assert row["memory"]["total"] == sum(
        size for part, size in row["memory"].items() if part != "total"
    )


@pytest.mark.slow
def test_the_large_recipe_is_planned_without_its_memory() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llmforge.cli.app import main\n"
        "sys.argv = ['forge', 'plan', 'neox_1_2b', '--world-size', '8', '--json']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(Path('/proc/self/status').read_text(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    body = json.loads(done.stdout)
    assert body["sizes"]["parameters"] == 1_414_455_296
    assert body["checkpoint_bytes"] > 12 * 1_414_455_296
    # not getrusage: its peak goes on from that of the process which started this one
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak) < 1_200_000
    rows = {row["strategy"]: row["memory"] for row in body["rows"]}
    assert rows["single"]["gradients"] == 4 * 1_414_455_296
    assert rows["deepspeed 3"]["total"] < rows["ddp"]["total"] / 1.5
