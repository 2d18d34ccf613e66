"""A run with a real, untrained transformer over bytes, for the tests of llmforge.generation."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from llmforge.checkpoint import CheckpointWriter, Retention, SaveRequest, SelfDescription
from llmforge.interfaces import LanguageModel, Tokenizer
from llmforge.plugins import load
from llmforge.recipe import load_recipe, to_toml
from llmforge.rundir import RunDirectory, RunRecord, write_record
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

RECIPE = """\
[model]
name = "transformer"
[model.transformer]
layers = 2
width = 32
heads = 2
context = 64
[tokenizer]
name = "bytes"
[data]
name = "text"
[data.text]
path = "nowhere.txt"
[train]
max_steps = 10
[generation]
prompts = ["from the recipe"]
[generation.sampler]
max_new_tokens = 12
"""


def make_model(seed: int) -> LanguageModel:
    """Return the model of ``RECIPE``, its weights drawn from ``seed`` and large enough to talk."""
    component = load("model", "transformer")
    options = component.Options(layers=2, width=32, heads=2, context=64)
    torch.manual_seed(seed)
    model = component(options).forge_build_model(run=None, tokenizer=ByteTokenizer())
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    model.eval()
    return model


def make_trained_run(
    root: Path,
    run_id: str,
    *,
    steps: int = 2,
    recipe: str = RECIPE,
    extra: str = "",
    tokenizer: Tokenizer | None = None,
) -> RunDirectory:
    """Write a run whose checkpoint at step N holds ``make_model(N)``; the first is the best.

    ``extra`` is put at the end of the resolved ``recipe``; ``tokenizer`` is bytes without it.
    """
    directory = RunDirectory(root / run_id)
    directory.path.mkdir(parents=True)
    source = directory.path / "recipe.toml"
    source.write_text(recipe)
    text = to_toml(load_recipe(source).tables) + extra
    source.write_text(text)
    write_record(directory, RunRecord(run_id, state="completed", started=time.time()))
    directory.tokenizer.mkdir()
    (tokenizer or ByteTokenizer()).save(directory.tokenizer)
    with CheckpointWriter(
        directory.checkpoints,
        description=SelfDescription(
            recipe=text, recipe_hash="0" * 64, tokenizer=directory.tokenizer
        ),
        retention=Retention(keep_last=steps, keep_best=1),
        on_saved=lambda _: None,
    ) as writer:
        for step in range(1, steps + 1):
            weights = {
                name: parameter.detach() for name, parameter in make_model(step).named_parameters()
            }
            writer.submit(
                SaveRequest(
                    step=step,
                    model=weights,
                    optimizer={},
                    trainer={},
                    metadata={},
                    is_best=step == 1,
                    required=True,
                )
            )
    return directory
