"""A pre-trained folder fine-tuned on the bundled instructions, from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forge_process import RECIPE, Workplace, environment
from hf_models import save, save_tokenizer

MODEL = """name = "transformer"
[model.transformer]
layers = 2
width = 32
heads = 2
context = 32
dropout = 0.1

[tokenizer]
name = "bpe"
[tokenizer.bpe]
vocab_size = 320
"""
TEXT = """name = "text"
[data.text]
train = "train.txt"
validation = "valid.txt"
document = "line"
"""
FINE_TUNE = RECIPE.replace(
    MODEL,
    """name = "hf-causal"
[model.hf-causal]
path = "gpt2"

[tokenizer]
name = "from-model"
""",
).replace(
    TEXT,
    """name = "instruct"
max_documents = 60
[data.instruct]
sample = true
truncate = "right"
""",
)
SHORT = {"train.max_steps": "8", "eval.every": "4", "checkpoint.every": "4"}


def place(path: Path) -> Workplace:
    found = Workplace(path, SHORT, recipe=FINE_TUNE)
    folder = save(path / "gpt2", "gpt2", vocab_size=270, n_positions=128, resid_pdrop=0.1)
    save_tokenizer(folder)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = place(tmp_path_factory.mktemp("tuned") / "place")
    found.train_here()
    return found


def test_a_run_says_and_records_what_it_starts_from(trained: Workplace) -> None:
    assert trained.record["resolved"]["model"] == {"folder": str(trained.path / "gpt2")}
    notices = " ".join(trained.record["notices"])
    assert "the tokenizer has 283 entries, the embedding of 'gpt2' fewer" in notices
    metadata = json.loads((trained.checkpoints[-1] / "metadata.json").read_text())
    assert metadata["model"]["architecture"]["vocab_size"] == 283
    assert trained.rows[-1]["val/loss"] < trained.rows[0]["train/loss"]


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, trained: Workplace) -> None:
    stopped = place(tmp_path / "place")
    stopped.train_here("--set", "train.stop_at=5")
    assert "resuming from step 5" in stopped.train_here()
    assert stopped.result() == trained.result()


def test_what_was_trained_needs_the_folder_no_more(tmp_path: Path, trained: Workplace) -> None:
    moved = trained.copy(tmp_path / "copy")
    shutil.rmtree(moved.path / "gpt2")
    arguments = ("--prompt", "the river", "--max-new-tokens", "4", "--greedy", "--json")
    output = moved.forge_here("generate", "tiny@last", *arguments)
    (answer,) = json.loads(output[output.index("{") :])["completions"]
    assert (answer["prompt"], answer["tokens"]) == ("the river", 4)
    evaluated = moved.forge_here("evaluate", "tiny@last", "--json")
    measured = json.loads(evaluated[evaluated.index("{") :])
    assert measured["val/loss"] == pytest.approx(trained.rows[-1]["val/loss"], rel=1e-5)


def test_mistakes_end_before_any_work(tmp_path: Path, trained: Workplace) -> None:
    moved = trained.copy(tmp_path / "copy")
    shutil.rmtree(moved.run.path.parent)
    context = ("--set", "model.hf-causal.context=512")
    output = moved.forge_here("train", "recipe.toml", *context, expect=2)
    assert "model.hf-causal.context: a context of 512 is more than" in output
    output = moved.forge_here("train", "recipe.toml", "-m", "gpt2-medium", expect=2)
    assert "config.json of 'openai-community/gpt2-medium' at revision 'main'" in output
    output = moved.forge_here("train", "recipe.toml", "-m", "gpt3", expect=2)
    assert "there is no model 'gpt3'" in output
    assert "Traceback" not in output


def test_a_run_without_such_a_model_never_imports_transformers(tmp_path: Path) -> None:
    found = Workplace(tmp_path / "place", lines=60)
    code = (
        "import sys\n"
        "from llmforge import train\n"
        "train('recipe.toml', overrides=['train.max_steps=1'])\n"
        "print({'transformers', 'peft', 'sacrebleu'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=found.path,
        env={**environment(found), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip().endswith("set()"), done.stdout + done.stderr
