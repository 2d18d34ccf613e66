"""Trains a small model of Python's standard library, for ``generate.py --run``.

Random weights repeat one token for ever, so they say nothing of prompt lookup. What is trained here
knows code a little; prompts are from modules that were held back (``code.json``), which repeat
themselves, and from the sample of Wikipedia that llmforge comes with (``prose.json``). Nothing is
fetched.

    python benchmarks/generate_trained.py /tmp/trained      # some minutes; then do as it says
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from importlib.resources import files
from pathlib import Path

RUN = "code"
HELD_BACK = 25  # every so many modules
RECIPE = """\
[run]
root = "{folder}"
id = "{run}"
[model]
name = "transformer"
[model.transformer]
layers = {layers}
width = {width}
heads = {heads}
context = 256
[tokenizer]
name = "bpe"
[tokenizer.bpe]
vocab_size = 4096
[data]
name = "text"
[data.text]
train = "{folder}/train.txt"
validation = "{folder}/held_back.txt"
[train]
max_steps = {steps}
batch_size = 16
[optimizer]
name = "adamw"
[optimizer.adamw]
lr = 2e-3
[eval]
every = {steps}
"""


def write_texts(folder: Path) -> None:
    """Write the modules to train on, and those held back."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(file for file in library.glob("*.py") if file.stat().st_size > 2000)
    held_back = modules[::HELD_BACK]
    for name, chosen in (
        ("train.txt", [file for file in modules if file not in held_back]),
        ("held_back.txt", held_back),
    ):
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in chosen]
        (folder / name).write_text("\n".join(texts), encoding="utf-8")


def write_prompts(folder: Path) -> None:
    """Write the token ids that prompts are taken from."""
    from llmforge.generation import load_checkpoint, locate

    loaded = load_checkpoint(locate(f"{RUN}@last", root=folder), device="cpu")
    prose = files("llmforge_plugins.data").joinpath("sample", "test.txt")
    for name, text in (
        ("code.json", (folder / "held_back.txt").read_text(encoding="utf-8")),
        ("prose.json", prose.read_text(encoding="utf-8")),
    ):
        (ids,) = loaded.tokenizer.encode_batch([text])
        (folder / name).write_text(json.dumps([int(number) for number in ids]), encoding="utf-8")


def main() -> None:
    """Train, and say what to run next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="4x256", help="LAYERSxWIDTH")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder)
    layers, width = map(int, arguments.size.split("x"))
    sizes = {"layers": layers, "width": width, "heads": max(1, width // 64)}
    recipe = folder / "recipe.toml"
    recipe.write_text(
        RECIPE.format(folder=folder.as_posix(), run=RUN, steps=arguments.steps, **sizes),
        encoding="utf-8",
    )
    import llmforge

    llmforge.train(recipe)
    write_prompts(folder)
    print(
        f"python benchmarks/generate.py --run {folder / RUN} --prompts {folder / 'code.json'} "
        f"{folder / 'prose.json'} --prompt 128 --tokens 120 --batches 1 --rounds 9 --threads 1 "
        '--modes greedy temperature --contenders "llmforge fp32" "llmforge fp32 lookup"'
    )


if __name__ == "__main__":
    main()
