"""``forge export``: one safetensors file of any checkpoint's weights, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from checkpoint_drafts import flip_bit
from checkpoint_slices import cut, sliced_checkpoint
from generate_parts import RECIPE, make_model, make_trained_run
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from llmforge.checkpoint import open_checkpoint
from llmforge.checkpoint.hashed_files import hash_file
from llmforge.cli import export as command
from llmforge.errors import CheckpointError, UsageError
from llmforge.export import export_weights
from llmforge.rundir import RunDirectory
from llmforge_plugins.tokenizers.ids import IdTokenizer

app = typer.Typer()
app.command()(command.export)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    return make_trained_run(tmp_path / "runs", "run-1", steps=3)


def forge(*arguments: str) -> Result:
    """Run the command, raising its error."""
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def weights(step: int) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in make_model(step).named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        (["run-1"], 1),
        (["run-1", "--checkpoint", "best"], 1),
        (["run-1", "--checkpoint", "last"], 3),
        (["run-1", "--checkpoint", "2"], 2),
        (["run-1@2"], 2),
        (["runs/run-1/checkpoints/step-00000002"], 2),
    ],
)
def test_the_weights_of_the_checkpoint_asked_for_are_written(
    run: RunDirectory, arguments: list[str], step: int
) -> None:
    output = forge(*arguments, "--weights", "w.safetensors").stdout
    assert f"w.safetensors: the weights of step {step}" in output
    assert_same(load_file("w.safetensors"), weights(step))


def test_json_tells_size_and_hash(run: RunDirectory) -> None:
    told = json.loads(forge("run-1@2", "--weights", "w.safetensors", "--json").stdout)
    assert (told["file"], told["step"]) == ("w.safetensors", 2)
    assert told["size"] == Path("w.safetensors").stat().st_size
    assert told["sha256"] == hash_file(Path("w.safetensors"))


def test_a_file_that_is_there_is_replaced_only_when_told(run: RunDirectory) -> None:
    forge("run-1@1", "--weights", "w.safetensors")
    with pytest.raises(UsageError, match="already exists"):
        forge("run-1@2", "--weights", "w.safetensors")
    assert_same(load_file("w.safetensors"), weights(1))
    forge("run-1@2", "--weights", "w.safetensors", "--force")
    assert_same(load_file("w.safetensors"), weights(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-1@2", "--checkpoint", "best", "--weights", "w.safetensors"], "both say which"),
        (["run-1"], "give one of --to DIR and --weights FILE"),
        (["run-1", "--weights", "w.safetensors", "--to", "out"], "give one of"),
        (["run-1", "--weights", "w.safetensors", "--dtype", "bf16"], "are of a folder"),
        (["run-1", "--to", "out", "--format", "onnx"], "must be hf, safetensors or gguf"),
        (["run-1", "--to", "out", "--dtype", "q8_0"], "must be fp32, bf16 or fp16 with"),
        (
            ["run-1", "--to", "out", "--max-shard-size", "big"],
            "--max-shard-size: 'big' is not a size",
        ),
        (["run-1", "--to", "nowhere/out"], "no directory nowhere"),
        (["run-1", "--weights", "w.pt"], "must end in .safetensors"),
        (["run-1", "--weights", "nowhere/w.safetensors"], "no directory nowhere"),
        (["run-1", "--weights", "d.safetensors"], "is a directory"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_written(
    run: RunDirectory, arguments: list[str], message: str
) -> None:
    Path("d.safetensors").mkdir()
    before = sorted(Path().iterdir())
    with pytest.raises(UsageError, match=message):
        forge(*arguments)
    assert sorted(Path().iterdir()) == before


def test_a_folder_is_written_whole_or_not_at_all(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: forcing a file to the disk fails as on a full one."""
    told = json.loads(forge("run-1@1", "--to", "out", "--json").stdout)
    assert told["files"]["config.json"]["sha256"] == hash_file(Path("out/config.json"))
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    with pytest.raises(UsageError, match="already exists"):
        forge("run-1@2", "--to", "out")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("llmforge.export.publish.os.fsync", full)
        with pytest.raises(CheckpointError, match="out cannot be written: No space left"):
            forge("run-1@2", "--to", "out", "--force")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
    output = forge("run-1@2", "--to", "out", "--force").stdout
    assert output.startswith("out: step 2, ")
    assert Path("out/model.safetensors").read_bytes() != before["model.safetensors"]


def test_a_folder_that_is_no_export_is_never_replaced(run: RunDirectory) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a folder that was exported"):
        forge("run-1@1", "--to", "mine", "--force")
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_a_tokenizer_without_text_leaves_its_own_files(run: RunDirectory) -> None:
    recipe = RECIPE.replace('name = "bytes"', 'name = "ids"').replace(
        'name = "text"\n[data.text]\npath = "nowhere.txt"',
        'name = "tokens"\n[data.tokens]\npath = "x"',
    )
    tokenizer = IdTokenizer(257, eos_id=256)
    made = make_trained_run(run.root, "run-2", steps=1, recipe=recipe, tokenizer=tokenizer)
    result = CliRunner().invoke(app, ["run-2", "--to", "out"], catch_exceptions=False)
    assert "the tokenizer 'ids' cannot be written as a tokenizer.json" in result.output
    assert sorted(path.name for path in Path("out/tokenizer").iterdir()) == [
        path.name for path in sorted((made.checkpoints / "step-00000001" / "tokenizer").iterdir())
    ]
    assert "token ids: there is no tokenizer" in Path("out/README.md").read_text()


def test_a_checkpoint_in_slices_gives_the_very_file_of_one_that_is_not(tmp_path: Path) -> None:
    tensors = {
        **weights(1),
        "half": torch.randn(5, 3).to(torch.bfloat16),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
        "large": torch.randn(3_000_000),
    }
    made = []
    for ranks in (1, 3):
        path = sliced_checkpoint(tmp_path / f"run-{ranks}", cut(tensors, ranks))
        made.append(tmp_path / f"{ranks}.safetensors")
        export_weights(open_checkpoint(path), made[-1])
    assert_same(load_file(made[0]), tensors)
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_damaged_checkpoint_is_not_exported(run: RunDirectory) -> None:
    path = run.checkpoints / "step-00000002"
    flip_bit(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="was altered"):
        export_weights(open_checkpoint(path), Path("w.safetensors"))
    assert not Path("w.safetensors").exists()


def test_a_full_disk_leaves_the_file_that_was_there(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: forcing a file to the disk fails as on a full one."""
    forge("run-1@1", "--weights", "w.safetensors")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmforge.checkpoint.hashed_files.os.fsync", full)
    with pytest.raises(CheckpointError, match=r"w\.safetensors cannot be written: No space left"):
        forge("run-1@2", "--weights", "w.safetensors", "--force")
    assert_same(load_file("w.safetensors"), weights(1))
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
