"""``forge plan``: what a recipe needs, before anything is trained or allocated."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, emit_json
from llmforge.errors import UsageError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_USUAL = "80GB"


def plan(
    recipe: options.Recipe,
    world_size: Annotated[
        int, typer.Option("--world-size", min=1, help="Devices to spread it over.")
    ] = 1,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory",
            metavar="SIZE",
            help=f"Memory of one device, like 80GB; else this machine's GPU's, else {_USUAL}.",
            show_default=False,
        ),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            "--vocab-size",
            min=2,
            help="Vocabulary, where only the data could tell.",
            show_default=False,
        ),
    ] = None,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    preset: options.Preset = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what RECIPE needs: parameters, memory by backend, what fits.

    Nothing is trained or allocated: a step of the recipe's own model and optimizer is traced
    with tensors that have no content.
    """
    from llmforge.planning.plan import plan_memory
    from llmforge.planning.plan_text import as_text, as_values
    from llmforge.recipe import load_recipe

    given = options.recipe_overrides(
        recipe, profile=profile, assignments=assignments, preset=preset
    )
    loaded = load_recipe(recipe, profile=profile, overrides=given)
    found = plan_memory(
        loaded,
        ranks=world_size,
        memory_limit=parse_size(gpu_memory) if gpu_memory else _memory_here(),
        vocabulary=vocab_size,
        device=_device_here(),
    )
    if as_json:
        emit_json(as_values(found))
    else:
        echo(as_text(found), nl=False)


def parse_size(text: str) -> int:
    """Return bytes from text like ``80GB`` (10^9) or ``80GiB`` (2^30).

    Raises:
        UsageError: it is not such a text.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None or not float(match[1]):
        raise UsageError(f"'{text}' is not a memory size", remedy="for example 80GB or 24GiB")
    return int(float(match[1]) * factor)


def _memory_here() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return parse_size(_USUAL)


def _device_here() -> str:
    """Return whose kernels can be traced: those of CUDA are chosen by asking the GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
