"""Benchmarks of the lm-evaluation-harness on a trained run, against the model's own logits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

import llmforge
from llmforge.cli.app import app
from llmforge.export import export_folder
from llmforge.generation import LoadedModel, open_checkpoint
from llmforge.harness.benchmarks import run_benchmarks

RECIPE = """
[model]
name = "transformer"
[model.transformer]
layers = 2
width = 32
heads = 2
context = 48
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
train = "text.txt"
document = "line"
[train]
max_steps = 60
batch_size = 8
[optimizer]
name = "adamw"
[optimizer.adamw]
lr = 1e-2
[run]
id = "short"
[tracker]
names = ["csv"]
"""

ROWS = [
    {"question": "the river", "choices": [" runs", " zzzz", " qqqq"], "answer": 0},
    {"question": "a stone", "choices": [" qqqq", " lies", " xxxx"], "answer": 1},
    {"question": "long " * 20 + "the river", "choices": [" runs", " lies"], "answer": 1},
]

COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
"""
QUIZ = """
task: quiz
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
STORY = """
task: story
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " runs"
generation_kwargs: {until: ["e"], max_gen_toks: 10}
metric_list: [{metric: exact_match}]
"""
WORDS = """
task: words
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trained run and files of tasks."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "text.txt").write_text("the river runs\na stone lies\n" * 400, encoding="utf-8")
    recipe = RECIPE.replace("text.txt", str(folder / "text.txt"))
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for name, text in (("quiz", QUIZ), ("story", STORY), ("words", WORDS)):
        common = COMMON.format(rows=folder / "rows.jsonl")
        (folder / f"{name}.yaml").write_text(common + text, encoding="utf-8")
    llmforge.train(folder / "recipe.toml", overrides={"run.root": str(folder / "runs")})
    return folder


@pytest.fixture(scope="module")
def loaded(place: Path) -> LoadedModel:
    return open_checkpoint("short", root=place / "runs", device="cpu")


def log_likelihood(loaded: LoadedModel, context: str, text: str) -> float:
    """Score a text token by token, each in a forward pass of its own."""
    ids = loaded.tokenizer.encode(context + text)
    start = len(loaded.tokenizer.encode(context))
    if not context:
        eos = loaded.tokenizer.eos_id
        assert eos is not None
        ids, start = [eos, *ids], 1
    window = ids[-(loaded.model.context + 1) :]
    start -= len(ids) - len(window)
    total = 0.0
    with torch.inference_mode():
        for place in range(start, len(window)):
            logits = loaded.model(torch.tensor([window[:place]]))[0, -1]
            total += float(logits.log_softmax(-1)[window[place]])
    return total


def measured(loaded: LoadedModel, place: Path, name: str, **options: Any) -> dict[str, float]:
    (row,) = run_benchmarks(loaded, [str(place / f"{name}.yaml")], **options)
    assert row["task"] == name
    return row["metrics"]


@pytest.mark.slow
def test_choices_are_scored_as_the_model_scores_them(loaded: LoadedModel, place: Path) -> None:
    right = []
    for row in ROWS:
        scores = [log_likelihood(loaded, row["question"], choice) for choice in row["choices"]]
        right.append(scores.index(max(scores)) == row["answer"])
    expected = sum(right) / len(right)
    assert 0 < expected < 1
    assert measured(loaded, place, "quiz")["acc"] == pytest.approx(expected)
    first = run_benchmarks(loaded, [str(place / "quiz.yaml")], limit=1)[0]
    assert (first["examples"], first["metrics"]["acc"]) == (1, float(right[0]))


@pytest.mark.slow
def test_whole_texts_are_scored_with_all_their_context(loaded: LoadedModel, place: Path) -> None:
    short = [row for row in ROWS if len(row["question"]) < 40]
    total = sum(log_likelihood(loaded, "", row["question"]) for row in short)
    size = sum(len(row["question"]) for row in short)
    found = measured(loaded, place, "words", limit=2)["bits_per_byte"]
    assert found == pytest.approx(-total / size / math.log(2), abs=1e-5)


@pytest.mark.slow
def test_texts_are_written_to_a_stop(loaded: LoadedModel, place: Path) -> None:
    answers = [
        completion.text
        for completion in llmforge.generation.generate_texts(
            loaded,
            [row["question"][-38:] for row in ROWS],
            greedy=True,
            max_new_tokens=10,
            stop=["e"],
        )
    ]
    expected = sum(answer == " runs" for answer in answers) / len(answers)
    assert measured(loaded, place, "story")["exact_match"] == pytest.approx(expected)


def test_the_harness_by_hand_on_the_exported_folder_says_the_same(
    loaded: LoadedModel, place: Path
) -> None:
    folder = export_folder(loaded.checkpoint, place / "exported").path
    files = [str(place / f"{name}.yaml") for name in ("quiz", "story", "words")]
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2),
        tasks=files,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    assert theirs is not None
    for row in run_benchmarks(loaded, files):
        found = theirs["results"][row["task"]]
        for name, value in row["metrics"].items():
            assert value == pytest.approx(found[f"{name},none"], rel=1e-5)


def test_the_command_keeps_results_and_gives_them_to_the_trackers(place: Path) -> None:
    runs = place / "runs"
    arguments = ["evaluate", "short", "--root", str(runs), "--harness"]
    done = CliRunner().invoke(app, [*arguments, f"{place / 'quiz.yaml'},{place / 'words.yaml'}"])
    assert done.exit_code == 0, done.output
    assert "quiz" in done.output
    assert "bits_per_byte" in done.output
    rows = json.loads((runs / "short" / "benchmarks.json").read_text(encoding="utf-8"))
    assert [(row["task"], row["step"], row["examples"]) for row in rows] == [
        ("quiz", 60, 3),
        ("words", 60, 3),
    ]
    again = CliRunner().invoke(app, [*arguments, str(place / "quiz.yaml"), "--limit", "2"])
    assert again.exit_code == 0, again.output
    rows = json.loads((runs / "short" / "benchmarks.json").read_text(encoding="utf-8"))
    assert [(row["task"], row["examples"]) for row in rows] == [
        ("quiz", 3), ("words", 3), ("quiz", 2),
    ]  # fmt: skip
    (table,) = (runs / "short" / "trackers" / "csv").glob("*.csv")
    assert "benchmark/quiz/acc" in table.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--harness", "nothing.yaml"], "there is no task file nothing.yaml"),
        (["--harness", "hellaswagg"], "did you mean hellaswag"),
        (["--limit", "3"], "--harness TASKS"),
    ],
)
def test_a_task_that_is_not_there_is_refused(
    arguments: list[str], message: str, place: Path
) -> None:
    command = ["evaluate", "short", "--root", str(place / "runs"), *arguments]
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0
    assert message in done.output + str(done.exception or "")
