"""What ``[export] at_end`` of a recipe asks for: the model beside the run that made it."""

from __future__ import annotations

from collections.abc import Callable

from llmforge.recipe import Recipe
from llmforge.rundir import RunDirectory


def export_at_end(directory: RunDirectory, recipe: Recipe, notice: Callable[[str], None]) -> None:
    """Write the best checkpoint of a run, else the last, into its ``export`` folder.

    Raises:
        ForgeError: it cannot be written as the recipe says.
    """
    from llmforge.export.folder import export_folder
    from llmforge.generation.address import best_or_last

    export_folder(
        best_or_last(directory),
        directory.export,
        layout=recipe.export.format,
        merge=recipe.export.merge,
        dtype=recipe.export.dtype,
        overwrite=True,
        notice=notice,
    )
