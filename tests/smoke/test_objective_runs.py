"""Encoders and encoder-decoders in real runs: killed, resumed, on two ranks, measured, asked."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from forge_process import RECIPE, Workplace
from pretrained_folders import save_pretrained
from ranks import TWO

_MODEL = RECIPE[RECIPE.index("[model]") : RECIPE.index("[data]")]
_DATA = RECIPE[RECIPE.index("[data]") : RECIPE.index("[train]")]
_PARTS = {
    "seq2seq": ("t5", "hf-seq2seq", "instruct", "chrf"),
    "mlm": ("roberta", "hf-encoder", "labelled", ""),
    "classify": ("roberta", "hf-encoder", "labelled", "accuracy"),
}
WORDS = ("river", "stone", "cloud", "garden", "tree", "bird", "city", "market")


def workplace(path: Path, form: str, **settings: str) -> Workplace:
    kind, model, data, metric = _PARTS[form]
    recipe = RECIPE.replace(
        _MODEL,
        f'[model]\nname = "{model}"\n[model.{model}]\npath = "pretrained"\ncontext = 48\n'
        '[tokenizer]\nname = "from-model"\n'
        f'[objective]\nname = "{form}"\n',
    ).replace(_DATA, f'[data]\nname = "{data}"\n[data.{data}]\npath = "rows.jsonl"\n')
    if metric:
        recipe += f'\n[metric]\nnames = ["{metric}"]\nrows = 4\nmax_new_tokens = 8\n'
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    if form != "seq2seq":
        recipe = recipe.replace('prompts = ["The river"]\n', "")
    found = Workplace(path, keys, recipe=recipe)
    draw = random.Random(3)
    rows = []
    for _ in range(120):
        said = draw.choices(WORDS, k=draw.randint(1, 6))
        if data == "instruct":
            rows.append({"source": " ".join(said), "target": " ".join(reversed(said))})
        else:
            rows.append({"text": " ".join(said), "label": "long" if len(said) > 3 else "short"})
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_pretrained(path / "pretrained", kind, [" ".join(WORDS)] * 20)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = workplace(tmp_path_factory.mktemp("whole"), "seq2seq")
    found.train_here()
    return found


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, undisturbed: Workplace) -> None:
    killed = workplace(tmp_path, "seq2seq")
    process = killed.start()
    assert process.wait_for(lambda _: any(c.name >= "step-00000009" for c in killed.checkpoints))
    process.kill()
    assert "resuming from step" in killed.train_here()
    assert killed.result() == undisturbed.result()


def test_the_loss_falls_and_a_source_is_answered(undisturbed: Workplace) -> None:
    measured = [row for row in undisturbed.rows if "val/loss" in row]
    assert measured[-1]["val/loss"] < measured[0]["val/loss"] - 0.2
    assert 0 <= measured[-1]["val/chrf"] <= 100
    output = undisturbed.forge_here("generate", "tiny", "-p", "river stone", "--greedy", "--json")
    (found,) = json.loads(output[output.index("{") :])["completions"]
    assert found["prompt"] == "river stone"
    output = undisturbed.forge_here("evaluate", "tiny@last", "--json")
    again = json.loads(output[output.index("{") :])
    for name in ("val/loss", "val/chrf"):
        assert again[name] == pytest.approx(measured[-1][name], rel=1e-5)


def test_labels_are_learned_by_two_ranks_as_by_one(tmp_path: Path) -> None:
    settings = {"train__max_steps": "12", "optimizer__adamw__lr": "3e-3"}
    one = workplace(tmp_path / "one", "classify", **settings)
    two = workplace(tmp_path / "two", "classify", **settings)
    one.train_here()
    two.train(*TWO)
    first, second = one.rows[-1], two.rows[-1]
    for key in ("train/loss", "val/loss", "tokens_seen", "epoch"):
        assert second[key] == pytest.approx(first[key], rel=5e-4), key
    assert first["val/accuracy"] == second["val/accuracy"] > 0.5
    assert "val/perplexity" not in first
    labels = json.loads((one.checkpoints[-1] / "tokenizer" / "labels.json").read_text())
    assert labels == ["long", "short"]
    output = one.forge_here("data", "show", "recipe.toml", "-n", "1")
    assert re.search(r"1 learned\n\[<s>[a-z ]+</s>\]  (long|short)\n", output)
    output = one.forge_here("evaluate", "tiny@last", "--json")
    found = json.loads(output[output.index("{") :])
    assert found["val/accuracy"] == first["val/accuracy"]
    output = one.forge_here("generate", "tiny", "-p", "river", expect=2)
    assert "was trained to read texts ('classify') and writes none" in output
    assert "Traceback" not in output


def test_hidden_tokens_are_the_same_after_a_resume(tmp_path: Path) -> None:
    whole, parts = workplace(tmp_path / "a", "mlm"), workplace(tmp_path / "b", "mlm")
    whole.train_here("--set", "train.max_steps=9")
    parts.train_here("--set", "train.max_steps=9", "--set", "train.stop_at=4")
    parts.train_here("--set", "train.max_steps=9")
    assert whole.result() == parts.result()
    assert whole.rows[-1]["val/loss"] < whole.rows[0]["train/loss"] - 0.1
