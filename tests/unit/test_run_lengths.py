"""How long a run over epochs is, known once its data are, and what may not contradict it."""

from __future__ import annotations

import pytest

from llmforge.data.order import Epochs
from llmforge.errors import RecipeError
from llmforge.recipe import load_recipe
from llmforge.run.plan import make_plan
from llmforge.run.setup.build import run_length

EPOCHS = Epochs(n_windows=35, batch_size=4)


def lengths(*overrides: str) -> tuple[int, int]:
    given = ["train.epochs=2", "train.batch_size=4", *overrides]
    return run_length(load_recipe("wikitext_tiny", overrides=given), EPOCHS)


def test_epochs_are_rounded_up_to_whole_steps() -> None:
    assert lengths() == (18, 18)
    assert lengths("train.epochs=0.01") == (1, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.extend_to=18"], "train.extend_to: 18 does not go past the 18 steps planned"),
        (["train.extend_to=2 epochs"], "2 epochs does not go past the 18 steps planned"),
        (["train.stop_at=19"], "train.stop_at: 19 is after the last step 18"),
    ],
)
def test_what_contradicts_the_length_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        lengths(*overrides)


def test_an_extension_past_the_end_moves_the_last_step() -> None:
    assert lengths("train.extend_to=30", "train.stop_at=25") == (18, 30)
    assert lengths("train.extend_to=3 epochs", "train.stop_at=25") == (18, 27)


def test_the_length_is_known_before_the_data_when_the_recipe_says_it() -> None:
    context = make_plan(load_recipe("wikitext_tiny")).context(resolved={}, notice=print)
    assert (context.total_steps, context.schedule_steps) == (500, 500)
    over_epochs = load_recipe("wikitext_tiny", overrides=["train.epochs=2"])
    assert make_plan(over_epochs).context(resolved={}, notice=print).total_steps == 0
