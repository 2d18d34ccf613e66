"""What ``[export] at_end`` of a recipe asks for: the model beside the run that made it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from llmforge.recipe import Recipe
from llmforge.rundir import RunDirectory


def export_at_end(directory: RunDirectory, recipe: Recipe, notice: Callable[[str], None]) -> None:
    """Write the best checkpoint of a run, else the last, into its ``export`` folder.

    The run's lock is held: what an earlier start was killed over is removed.

    Raises:
        ForgeError: it cannot be written as the recipe says.
    """
    from llmforge.export.folder import export_folder
    from llmforge.generation.address import best_or_last

    for unfinished in directory.path.glob(f".{directory.export.name}.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    export_folder(
        best_or_last(directory),
        directory.export,
        layout=recipe.export.format,
        merge=recipe.export.merge,
        dtype=recipe.export.dtype,
        overwrite=True,
        notice=notice,
    )
