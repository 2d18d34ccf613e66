"""Instruction data in real runs: killed, resumed, on two ranks, looked at."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from forge_process import RECIPE, Workplace
from ranks import TWO

from llmforge.data.prompts import prompt_request
from llmforge.generation import open_checkpoint

INSTRUCT = RECIPE.replace(
    """name = "text"
[data.text]
train = "train.txt"
validation = "valid.txt"
document = "line"
""",
    """name = "instruct"
[data.instruct]
path = "rows.jsonl"
truncate = "right"
""",
).replace("context = 32", "context = 128")


SHOW = ("data", "show", "recipe.toml")


def workplace(path: Path, **settings: str) -> Workplace:
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    found = Workplace(path, keys, recipe=INSTRUCT)
    draw = random.Random(3)
    words = ["river", "stone", "cloud", "garden", "tree", "bird", "city", "market", "wagon"]
    with (path / "rows.jsonl").open("w") as file:
        for _ in range(120):
            said = draw.choices(words, k=draw.randint(1, 6))
            row = {"instruction": "Turn them round.", "input": " ".join(said)}
            file.write(json.dumps({**row, "output": " ".join(reversed(said))}) + "\n")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = workplace(tmp_path_factory.mktemp("whole"))
    output = found.train_here()
    assert "examples, train: 114 examples" in output
    assert packed_rows(output) < 114
    return found


def packed_rows(output: str) -> int:
    """Return the rows that a run says it packed 114 examples into."""
    found = re.search(r"train: 114 examples in (\d+) packed rows of 128, \d+% padding", output)
    assert found, output
    return int(found[1])


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, undisturbed: Workplace) -> None:
    killed = workplace(tmp_path)
    process = killed.start()
    assert process.wait_for(lambda _: any(c.name >= "step-00000009" for c in killed.checkpoints))
    process.kill()
    assert "resuming from step" in killed.train_here()
    assert killed.result() == undisturbed.result()


def test_a_template_that_was_changed_is_not_resumed_with(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    template.write_text(text)
    found = workplace(tmp_path, data__instruct__template='"mine.jinja"', train__stop_at="6")
    found.train_here(expect=0)
    template.write_text(text.replace(": ", "> "))
    output = found.train_here("--set", "train.stop_at=9", expect=1)
    assert "the template of this run changed since it was started" in output
    assert "Traceback" not in output


def test_the_loss_falls_and_epochs_end_at_their_steps(undisturbed: Workplace) -> None:
    losses = [row["val/loss"] for row in undisturbed.rows if "val/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    ends = [row["step"] for row in undisturbed.rows if "train/loss_epoch" in row]
    rows = packed_rows((undisturbed.run.path / "log.txt").read_text())
    assert ends == [step for step in epoch_ends(rows) if step <= 60]
    assert undisturbed.rows[-1]["epoch"] == round(60 * 8 / rows, 6)
    assert "val/bits_per_byte" not in undisturbed.record["metrics"]


def epoch_ends(rows: int) -> list[int]:
    """Return the steps of 8 rows at which epochs end."""
    return [-(-epoch * rows // 8) for epoch in range(1, 100)]


def test_rows_that_are_not_packed_resume_from_the_same_place(tmp_path: Path) -> None:
    settings = {"data__instruct__packing": "false", "train__max_steps": "20"}
    whole, stopped = (workplace(tmp_path / name, **settings) for name in ("whole", "stopped"))
    output = whole.train_here()
    assert "train: 114 examples in rows of their own (packing = false)" in output
    ends = [row["step"] for row in whole.rows if "train/loss_epoch" in row]
    assert ends == [step for step in (-(-epoch * 114 // 8) for epoch in (1, 2)) if step <= 20]
    stopped.train_here("--set", "train.stop_at=11")
    assert "resuming from step 11" in stopped.train_here()
    assert stopped.result() == whole.result()


@pytest.mark.slow
def test_two_ranks_and_other_micro_batches_train_alike(tmp_path: Path) -> None:
    settings = {"model__transformer__dropout": "0.0", "train__max_steps": "12"}
    settings |= {"metric__names": '["chrf"]', "metric__max_new_tokens": "8"}
    settings |= {"generation__tests": '[{prompt = "river"}]'}
    changes = {"one": {}, "small": {"train__micro_batch_size": "1"}, "two": {}}
    runs = {name: workplace(tmp_path / name, **settings, **more) for name, more in changes.items()}
    runs["one"].train_here()
    runs["small"].train_here()
    runs["two"].train(*TWO)
    last = {name: run.rows[-1] for name, run in runs.items()}
    for name in ("small", "two"):
        for key in ("train/loss", "val/loss", "tokens_seen", "epoch"):
            assert last[name][key] == pytest.approx(last["one"][key], rel=2e-4), (name, key)
        assert last[name]["val/chrf"] == pytest.approx(last["one"]["val/chrf"], abs=10)
        assert json.loads(runs[name].run.examples.read_text())["step"] == 12


def test_what_is_learned_can_be_looked_at(undisturbed: Workplace) -> None:
    output = undisturbed.forge_here(*SHOW, "-n", "2")
    assert "120 examples (alpaca) in 1 file (rows.jsonl)" in output
    assert "train            114   114" in output
    assert "[### Instruction:\nTurn them round.\n\n### Input:\n" in output
    assert "### Response:\n]" in output
    assert output.count("<|endoftext|>") == 2
    rows = packed_rows(output)
    assert rows < 114
    output = undisturbed.forge_here(*SHOW, "--json")
    shown = json.loads(output[output.index("{") :])
    assert 0.05 < shown["train"]["share"] < 0.6
    assert sum(count for _, count in shown["train"]["lengths"]) == 114
    assert shown["train"]["rows"]["packed"]
    assert shown["train"]["rows"]["count"] == rows


def test_a_checkpoint_is_evaluated_on_examples(undisturbed: Workplace) -> None:
    output = undisturbed.forge_here("evaluate", "tiny@last", "--json")
    measured = json.loads(output[output.index("{") :])
    assert measured["val/loss"] == pytest.approx(undisturbed.rows[-1]["val/loss"], rel=1e-5)


def test_the_template_travels_with_the_checkpoint_and_lays_out_prompts(
    undisturbed: Workplace,
) -> None:
    kept = [place / "tokenizer" / "chat_template.jinja" for place in undisturbed.checkpoints]
    texts = {path.read_text() for path in (*kept, undisturbed.run.tokenizer / kept[0].name)}
    assert len(texts) == 1 and "### Instruction:" in texts.pop()
    prompt = "Turn them round.\n\n### Input:\nriver stone"
    laid_out = f"### Instruction:\n{prompt}\n\n### Response:\n"

    loaded = open_checkpoint("tiny", root=undisturbed.path / "runs")
    assert loaded.chat is not None
    request = prompt_request([prompt], chat=loaded.chat)
    assert [list(ids) for ids in request.prompt_ids or ()] == [loaded.tokenizer.encode(laid_out)]

    def completion(*arguments: str) -> dict[str, str]:
        output = undisturbed.forge_here("generate", "tiny", "--greedy", "--json", *arguments)
        found: dict[str, str] = json.loads(output[output.index("{") :])["completions"][0]
        return found

    answered, continued = completion("-p", prompt), completion("--raw", "-p", laid_out)
    assert (answered["prompt"], answered["text"]) == (prompt, continued["text"])


def test_running_text_has_no_template_to_lay_prompts_out_with(tmp_path: Path) -> None:
    found = Workplace(tmp_path, {"train.max_steps": "1"})
    found.train_here()
    for option in (("--chat",), ("--system", "Be brief.")):
        output = found.forge_here("generate", "tiny", "--prompt", "x", *option, expect=2)
        assert "no chat template" in output or "a system message needs" in output
        assert "Traceback" not in output
