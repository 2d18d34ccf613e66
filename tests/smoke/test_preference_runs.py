"""Preference tuning in real runs: divided, killed, moved, over an adapter, and used afterwards."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forge_process import RECIPE, ForgeProcess, Workplace, finishing, logged, saving, stepping
from pretrained_folders import save_pretrained
from ranks import TWO
from safetensors.torch import load_file
from storage_parts import last_committed, lose_machine, remote, stored_at

_DATA = RECIPE[RECIPE.index("[data]") : RECIPE.index("[train]")]
_MODEL = RECIPE[RECIPE.index("[model]") : RECIPE.index("[data]")]
PAIRS = (
    '[data]\nname = "preference"\n[data.preference]\npath = "pairs.jsonl"\n'
    'truncate = "right"\nvalidation_fraction = 0.1\n[objective]\nname = "dpo"\n'
)
SHORT = {"train.max_steps": "24", "model.transformer.context": "64", "eval.every": "8"}
WORDS = ("river", "stone", "cloud", "garden", "tree", "bird", "city", "market")

CONTEXT = ("--set", "model.transformer.context=64")

computing = logged("computing what the objective compares with")
"""The reference is being computed."""


def write_pairs(path: Path, *, count: int) -> None:
    """Write prompts of which the answer that repeats them is chosen, and not any other."""
    draw = random.Random(3)
    rows = []
    for number in range(count):
        said, other = (" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in "ab")
        rows.append({"prompt": said, "chosen": f"yes, {said}", "rejected": f"no {other} {number}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def workplace(path: Path, *, count: int = 160, **settings: str) -> Workplace:
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    found = Workplace(path, {**SHORT, **keys}, recipe=RECIPE.replace(_DATA, PAIRS))
    write_pairs(path / "pairs.jsonl", count=count)
    return found


def adapted(path: Path, *, count: int = 160, **settings: str) -> Workplace:
    """Return one over a pre-trained model of which an adapter alone trains."""
    own = (
        '[model]\nname = "hf-causal"\n[model.hf-causal]\npath = "gpt2"\ncontext = 64\n'
        '[tokenizer]\nname = "from-model"\n[adapter]\nname = "lora"\n[adapter.lora]\nr = 4\n'
        "dropout = 0.1\n"
    )
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    keys = {"train.max_steps": "24", "eval.every": "8", **keys}
    recipe = RECIPE.replace(_DATA, PAIRS).replace(_MODEL, own)
    found = Workplace(path, keys, recipe=recipe)
    write_pairs(path / "pairs.jsonl", count=count)
    save_pretrained(path / "gpt2", "gpt2", [" ".join(WORDS)] * 20)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = workplace(tmp_path_factory.mktemp("whole"))
    output = found.train_here()
    assert "of 2 sequences, each in a row of its own (the objective packs none)" in output
    return found


def losses(found: Workplace) -> list[float]:
    return [row["train/loss"] for row in found.rows]


def last_evaluation(found: Workplace) -> dict[str, float]:
    row = [row for row in found.rows if "val/loss" in row][-1]
    return {key: value for key, value in row.items() if key.startswith("val/")}


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("orpo", marks=pytest.mark.slow)])
def test_the_recipe_trains_as_it_is(tmp_path: Path, loss: str) -> None:
    text = f'extends = "preference_dpo"\n[run]\nid = "tiny"\n[objective.dpo]\nloss = "{loss}"\n'
    found = Workplace(tmp_path, recipe=text)
    found.train_here("--profile", "test")
    first, last = (row["val/loss"] for row in found.rows if "val/loss" in row)
    assert last < first
    assert "val/reward_accuracy" in found.rows[-1]


def test_the_chosen_answers_become_likelier(undisturbed: Workplace) -> None:
    measured = last_evaluation(undisturbed)
    assert measured.keys() == {"val/loss", "val/reward_margin", "val/reward_accuracy"}
    assert measured["val/loss"] < 0.6 < losses(undisturbed)[0] < 0.72  # log 2 at first
    assert measured["val/reward_accuracy"] > 0.8
    assert measured["val/reward_margin"] > 0.1
    reference = undisturbed.run.path / "reference.safetensors"
    for checkpoint in undisturbed.checkpoints:
        assert (checkpoint / reference.name).read_bytes() == reference.read_bytes()


def test_it_is_evaluated_shown_and_asked(undisturbed: Workplace) -> None:
    output = undisturbed.forge_here("evaluate", "tiny@last", "--json")
    again = json.loads(output[output.index("{") :])
    for name, value in last_evaluation(undisturbed).items():
        assert again[name] == pytest.approx(value, rel=1e-5)
    output = undisturbed.forge_here("generate", "tiny", "-p", "river stone", "--greedy", "--json")
    (answer,) = json.loads(output[output.index("{") :])["completions"]
    assert answer["prompt"] == "river stone"
    assert (undisturbed.checkpoints[-1] / "tokenizer" / "chat_template.jinja").exists()
    output = undisturbed.forge_here("data", "show", "recipe.toml", "-n", "1", *CONTEXT)
    assert re.search(r"chosen:\n\[### Instruction:[^]]*\]yes, [a-z ]+<\|endoftext\|>\n", output)
    assert re.search(r"rejected:\n\[### Instruction:[^]]*\]no [a-z ]+ \d+<\|endoftext\|>\n", output)


def test_other_data_has_no_reference(tmp_path: Path, undisturbed: Workplace) -> None:
    moved = undisturbed.copy(tmp_path / "copy")
    write_pairs(moved.path / "pairs.jsonl", count=150)
    output = moved.forge_here("evaluate", "tiny@last", expect=1)
    assert "has no reference for these rows" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("loss", ["ipo", "simpo", "orpo"])
def test_the_other_losses_train_too(tmp_path: Path, loss: str) -> None:
    found = workplace(tmp_path, objective__dpo__loss=loss, train__max_steps="12")
    found.train_here()
    assert losses(found)[-1] < losses(found)[0]
    kept = (found.run.path / "reference.safetensors").exists()
    assert kept == (loss == "ipo")
    output = found.forge_here("evaluate", "tiny@last", "--json")
    again = json.loads(output[output.index("{") :])
    assert again["val/loss"] == pytest.approx(last_evaluation(found)["val/loss"], rel=1e-5)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    found = {}
    for micro in ("1", "2", "8"):
        one = workplace(
            tmp_path / micro,
            train__micro_batch_size=micro,
            model__transformer__dropout="0.0",
            train__max_steps="8",
        )
        one.train_here()
        found[micro] = one
    for micro in ("1", "2"):
        assert losses(found[micro]) == pytest.approx(losses(found["8"]), rel=1e-4)


RANKS = {
    "ddp": (),
    "fsdp": ("--set", "backend.name=fsdp"),
    "deepspeed": ("--set", "backend.name=deepspeed", "--set", "backend.deepspeed.stage=2"),
}


@pytest.mark.parametrize(
    "backend", ["ddp", *(pytest.param(x, marks=pytest.mark.slow) for x in ("fsdp", "deepspeed"))]
)
def test_two_ranks_learn_as_one(tmp_path: Path, backend: str) -> None:
    settings = {"train__max_steps": "12", "model__transformer__dropout": "0.0"}
    one = workplace(tmp_path / "one", count=133, **settings)  # no whole number of batches
    two = workplace(tmp_path / "two", count=133, **settings)
    one.train_here()
    two.train(*TWO, *RANKS[backend])
    assert losses(two) == pytest.approx(losses(one), rel=5e-4)
    assert last_evaluation(two) == pytest.approx(last_evaluation(one), rel=5e-3, abs=1e-5)
    of_one, of_two = (load_file(found.run.path / "reference.safetensors") for found in (one, two))
    for split, values in of_one.items():
        torch.testing.assert_close(of_two[split], values, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_the_reference_keeps_its_precision_where_a_backend_casts_batches(tmp_path: Path) -> None:
    found = workplace(
        tmp_path,
        model__transformer__dropout="0.0",
        train__precision="bf16",
        train__log_every="1",
        train__max_steps="2",
    )
    found.train(*TWO, *RANKS["fsdp"])
    assert losses(found)[0] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.slow
def test_a_run_of_one_rank_resumes_on_two_with_the_same_reference(tmp_path: Path) -> None:
    found = workplace(tmp_path, train__max_steps="12")
    found.train_here("--set", "train.stop_at=4")
    kept = (found.run.path / "reference.safetensors").read_bytes()
    output = found.train(*TWO, "--set", "backend.name=fsdp").output
    assert "resuming from step 4" in output
    assert (found.run.path / "reference.safetensors").read_bytes() == kept


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, undisturbed: Workplace) -> None:
    stopped = workplace(tmp_path)
    stopped.train_here("--set", "train.stop_at=7")
    assert "resuming from step 7" in stopped.train_here()
    assert stopped.result() == undisturbed.result()


@pytest.mark.parametrize("ranks", [(), pytest.param(TWO, marks=pytest.mark.slow)])
def test_a_signal_while_the_reference_is_computed_stops_the_run(
    tmp_path: Path, ranks: tuple[str, ...]
) -> None:
    found = workplace(tmp_path, count=2000, train__micro_batch_size="1")
    process = found.start(*ranks)
    assert process.wait_for(computing)
    process.process.terminate()
    process.finish(expect=75)
    assert "stopped by SIGTERM" in process.output
    assert not (found.run.path / "reference.safetensors").exists()


def test_elsewhere_it_resumes_with_the_reference_of_its_checkpoint(
    tmp_path: Path, undisturbed: Workplace
) -> None:
    url = f"file://{tmp_path}/store"
    stored = {key.replace(".", "__"): value for key, value in stored_at(url).items()}
    found = workplace(tmp_path / "here", storage__background="false", **stored)
    found.train_here("--set", "train.stop_at=9")
    lose_machine(found)
    assert not found.run.path.exists()
    assert last_committed(remote(url)) == 9
    assert "resuming from step 9" in found.train_here()
    assert found.result() == undisturbed.result()


def test_a_lost_or_damaged_reference_is_restored_from_the_checkpoint(tmp_path: Path) -> None:
    found = adapted(tmp_path)
    found.train_here("--set", "train.stop_at=6")
    reference = found.run.path / "reference.safetensors"
    kept = reference.read_bytes()
    reference.unlink()
    found.train_here("--set", "train.stop_at=9")  # from the checkpoint
    assert reference.read_bytes() == kept
    reference.write_bytes(kept[:-1])  # damaged
    found.train_here()
    assert reference.read_bytes() == kept


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("make", [workplace, adapted])
def test_twelve_kills_at_random_instants_leave_no_trace(
    tmp_path: Path, make: Callable[..., Workplace]
) -> None:
    """Among them several while the reference is computed, before anything of it is kept."""
    whole = make(tmp_path / "whole", count=400)
    whole.train()
    instants: tuple[Callable[[ForgeProcess], bool], ...]
    instants = (computing, computing, stepping, saving, stepping, finishing)
    draw = random.Random(5)
    killed = in_reference = 0
    for number in itertools.count():
        found = make(tmp_path / f"killed-{number}", count=400)
        for instant in instants:
            process = found.start()
            if process.wait_for(instant):
                time.sleep(draw.uniform(0.0, 0.3 if instant is stepping else 0.02))
            if process.process.poll() is not None:
                process.finish(expect=0)
                break
            in_reference += not (found.run.path / "reference.safetensors").exists()
            process.kill()
            killed += 1
        found.train()
        assert found.result() == whole.result()
        if killed >= 12:
            break
    assert in_reference >= 2


def test_an_adapter_is_compared_with_its_base(tmp_path: Path) -> None:
    whole, parts = adapted(tmp_path / "whole"), adapted(tmp_path / "parts")
    whole.train_here()
    parts.train_here("--set", "train.stop_at=7")
    parts.train_here()
    assert parts.result() == whole.result()
    assert losses(whole)[0] == pytest.approx(0.69, abs=0.03)
    assert last_evaluation(whole)["val/loss"] < 0.69
    reference: dict[str, Any] = load_file(whole.run.path / "reference.safetensors")
    assert reference["train"].shape == (144, 2)
    output = whole.forge_here("evaluate", "tiny@last", "--json")
    again = json.loads(output[output.index("{") :])
    assert again["val/loss"] == pytest.approx(last_evaluation(whole)["val/loss"], rel=1e-5)
