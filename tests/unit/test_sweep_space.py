"""``[sweep.space]``: what it means, and every mistake in it told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmforge.cli.recipe import check
from llmforge.errors import Problem, RecipeError
from llmforge.interfaces import Dimension, Space, Tie
from llmforge.recipe import load_recipe
from llmforge.recipe.trials import check_trials, load_trial

HEAD = """\
extends = "wikitext_tiny"
[sweep]
name = "random"
[sweep.space]
"""
FIRST = len(HEAD.splitlines()) + 1
"""Line of the first swept key."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(space: str, head: str = HEAD) -> str:
    Path("s.toml").write_text(head + space, encoding="utf-8")
    return "s.toml"


def read(space: str) -> Space:
    found = load_recipe(write(space)).space
    assert found is not None
    return found


def problems(space: str, head: str = HEAD) -> list[Problem]:
    """Return what ``forge recipe check`` finds."""
    with pytest.raises(RecipeError) as caught:
        check_trials(load_recipe(write(space, head)), "s.toml")
    return list(caught.value.problems)


def problem(space: str, head: str = HEAD) -> Problem:
    found = problems(space, head)
    assert len(found) == 1, [str(item) for item in found]
    return found[0]


def test_each_way_of_varying_gives_its_values() -> None:
    space = read("""\
train.batch_size = {choice = [8, 16]}
model.transformer.dropout = {uniform = [0.0, 0.3], step = 0.1}
model.transformer.layers = {int = [2, 6], step = 2}
optimizer.adamw.lr = {log = [1e-4, 1e-2]}
""")
    by_key = {item.key: item for item in space.dimensions}
    assert by_key["train.batch_size"].values() == (8, 16)
    assert by_key["model.transformer.dropout"].values() == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert by_key["model.transformer.layers"].values() == (2, 4, 6)
    assert by_key["optimizer.adamw.lr"].values() is None
    assert by_key["optimizer.adamw.lr"].log


def test_a_quoted_key_and_a_dotted_one_are_the_same() -> None:
    dotted = read("train.batch_size = {choice = [8, 16]}\n")
    assert read('"train.batch_size" = {choice = [8, 16]}\n') == dotted


def test_a_condition_holds_for_the_points_it_names_and_no_others() -> None:
    space = read("""\
optimizer.muon.momentum = {choice = [0.9, 0.95], when = {optimizer.name = "muon"}}
optimizer.name = {choice = ["adamw", "muon"]}
""")
    assert list(space.grid()) == [
        {"optimizer.name": "adamw"},
        {"optimizer.name": "muon", "optimizer.muon.momentum": 0.9},
        {"optimizer.name": "muon", "optimizer.muon.momentum": 0.95},
    ]
    assert not space.contains({"optimizer.name": "adamw", "optimizer.muon.momentum": 0.9})
    assert not space.contains({"optimizer.name": "muon"})


def test_a_condition_that_the_recipe_itself_fulfils_is_no_condition() -> None:
    space = read("optimizer.adamw.lr = {log = [1e-4, 1e-2], when = {optimizer.name = 'adamw'}}\n")
    assert space.dimensions[0].when == {}


def test_a_tied_key_follows_also_over_another_tied_one() -> None:
    space = read("""\
train.batch_size = {choice = [8, 16]}
model.transformer.context = {tied = "model.transformer.width", times = 0.5}
model.transformer.width = {tied = "train.batch_size", times = 8}
""")
    assert space.with_ties({"train.batch_size": 16}) == {
        "train.batch_size": 16,
        "model.transformer.width": 128,
        "model.transformer.context": 64,
    }


@pytest.mark.parametrize(
    ("space", "key", "message", "remedy"),
    [
        ("train.batch_siz = {choice = [1]}", "", "train.batch_siz is no recipe key", "batch_size"),
        ("trian.batch_size = {choice = [1]}", "", "trian.batch_size is no", "'train'"),
        ("optimizer.lr = {log = [1e-4, 1e-2]}", "", "optimizer.lr is no", "[optimizer.adamw]"),
        ("train.batch_size = [8, 16]", "", "must be a table that says how", "choice"),
        ("train.batch_size = {chioce = [8]}", ".chioce", "unknown key", "'choice'"),
        ("train.batch_size = {step = 2}", "", "does not say how it varies", "choice"),
        ("train.batch_size = {int = [1, 4], choice = [8]}", "", "says both choice and int", ""),
        ("train.batch_size = {choice = [8], step = 2}", ".step", "does not go with choice", ""),
        ("train.batch_size = {choice = []}", ".choice", "must be a list of values", ""),
        ("train.batch_size = {choice = [8, 8]}", ".choice.1", "8 is listed twice", ""),
        ("optimizer.adamw.lr = {log = [1e-2, 1e-4]}", ".log", "is empty", "lowest comes first"),
        ("optimizer.adamw.lr = {log = [0.0, 1.0]}", ".log", "begins above 0", "uniform"),
        ("optimizer.adamw.lr = {log = ['a', 1.0]}", ".log", "must be two numbers", ""),
        ("train.batch_size = {int = [1.5, 4]}", ".int", "must be two whole numbers", ""),
        ("train.batch_size = {int = [4, 4]}", ".int", "is empty", "choice = [4]"),
        ("train.batch_size = {int = [1, 4], step = 9}", ".step", "more than the range", ""),
        ("run.log_level = {choice = ['debug', 'info']}", "", "is of scope safe", "changes the"),
        ("train.device = {choice = ['cpu', 'mps']}", "", "is of scope machine", ""),
        ("sweep.seed = {choice = [1, 2]}", "", "sweep.seed is no", "does not change itself"),
        ("train = {choice = [1, 2]}", "", "train is no recipe key", "is a table"),
        (
            "train.batch_size = {choice = [8, 16], when = {optimizer.name = 'muon'}}",
            ".when",
            "never holds: optimizer.name is 'adamw'",
            "sweep it too",
        ),
        (
            "train.batch_size = {choice = [8, 16], when = {optimizer.nme = 'muon'}}",
            ".when",
            "optimizer.nme is neither swept nor set",
            "",
        ),
        ("train.batch_size = {tied = 'train.grad_clip'}", ".tied", "grad_clip is not swept", ""),
    ],
)
def test_a_mistake_is_told_with_its_line_and_remedy(
    space: str, key: str, message: str, remedy: str
) -> None:
    found = problem(space + "\n")
    assert found.where == f"s.toml:{FIRST}"
    assert found.key.startswith("sweep.space.")
    assert found.key.endswith(key)
    assert message in found.message
    assert remedy in found.remedy


def test_a_condition_that_no_value_fulfils_is_told() -> None:
    found = problem("""\
optimizer.name = {choice = ["adamw", "muon"]}
optimizer.muon.lr = {log = [1e-4, 1e-2], when = {optimizer.name = "mun"}}
""")
    assert found.where == f"s.toml:{FIRST + 1}"
    assert "optimizer.name is never 'mun'" in found.message
    assert "'muon'" in found.remedy


def test_conditions_and_ties_in_a_circle_are_told() -> None:
    found = problem("""\
train.batch_size = {choice = [8, 16], when = {model.transformer.width = 64}}
model.transformer.width = {choice = [64, 128], when = {train.batch_size = 8}}
""")
    assert "circle" in found.message
    tied = problem("""\
train.batch_size = {tied = "model.transformer.width"}
model.transformer.width = {tied = "train.batch_size"}
optimizer.adamw.lr = {choice = [1e-3, 1e-2]}
""")
    assert "circle" in tied.message


def test_a_space_without_keys_and_a_sweep_without_a_sweeper_are_told() -> None:
    assert "nothing to try" in problem("").message
    nameless = "extends = 'wikitext_tiny'\n[sweep]\nmax_trials = 3\n"
    assert "must name a sweeper" in problem("", head=nameless).message


def test_a_grid_needs_values_that_can_be_counted() -> None:
    grid = HEAD.replace("random", "grid")
    found = problem("optimizer.adamw.lr = {log = [1e-4, 1e-2]}\n", head=grid)
    assert "no end of these" in found.message


def test_a_value_that_makes_no_valid_recipe_is_told_at_its_line_before_any_trial() -> None:
    found = problem("""\
optimizer.adamw.lr = {log = [1e-4, 1e-2]}
model.transformer.heads = {choice = [4, 3]}
""")
    assert found.where == f"s.toml:{FIRST + 1}" or "heads" in found.message
    wrong = problem("train.batch_size = {choice = [8, 'sixteen']}\n")
    assert (wrong.key, wrong.where) == ("train.batch_size", f"s.toml:{FIRST}")
    assert "'sixteen'" in wrong.message


def test_a_rule_between_tables_that_a_point_breaks_is_told_with_the_point() -> None:
    head = HEAD.replace("[sweep]", "[train]\nmicro_batch_size = 8\n[sweep]")
    found = problem("train.batch_size = {choice = [16, 12]}\n", head=head)
    assert "8 does not divide batch_size 12" in found.message
    assert "train.batch_size = 12" in found.message


def test_a_key_of_a_part_that_is_not_selected_makes_no_difference_and_is_told() -> None:
    found = problem("optimizer.muon.momentum = {choice = [0.9, 0.95]}\n")
    assert found.where == f"s.toml:{FIRST}"
    assert "every value of it makes the same run" in found.message


def test_the_recipe_check_tries_the_space_too(capsys: pytest.CaptureFixture[str]) -> None:
    check([write("train.batch_size = {choice = [8, 16]}\n")])
    assert "sweeps train.batch_size" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="sixteen"):
        check([write("train.batch_size = {choice = [8, 'sixteen']}\n")])


def test_the_trial_of_a_point_is_a_recipe_without_the_sweep() -> None:
    source = write("train.batch_size = {choice = [8]}\noptimizer.adamw.lr = {choice = [5e-4]}\n")
    parameters = {"train.batch_size": 8, "optimizer.adamw.lr": 5e-4}
    overrides = {"model.transformer.context": 32}
    trial = load_trial(source, parameters, overrides=overrides, seed=7)
    assert trial.run.id is not None
    assert trial.run.id.startswith("tune_8_32_5e-04-")
    assert trial.run.seed == 7
    assert trial.run.name == "{run_id}"
    assert "sweep" not in trial.tables
    assert trial.space is None


def test_a_recipe_without_a_sweep_resolves_to_tables_without_one() -> None:
    assert "sweep" not in load_recipe("wikitext_tiny").tables


def test_a_later_layer_changes_how_a_key_varies() -> None:
    source = write("train.batch_size = {choice = [8, 16]}\n")
    changed = load_recipe(source, overrides=["sweep.space.train.batch_size.int=[4, 8]"]).space
    assert changed is not None
    assert changed.dimensions[0].values() == (4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (
            Dimension(key="k", kind="float", low=1e-4, high=1e-2, log=True),
            1.7764250244840568e-03,
            1.776e-3,
        ),
        (Dimension(key="k", kind="float", low=0.0, high=0.3), 0.123456789, 0.1235),
        (Dimension(key="k", kind="float", low=1000.0, high=1001.0), 1000.123456, 1000.123),
        (Dimension(key="k", kind="float", low=0.0, high=1e5), 12345.678, 12350.0),
        (
            Dimension(key="k", kind="float", low=1e-5, high=1.23456e-4, log=True),
            1.23456e-4,
            1.23456e-4,
        ),
        (Dimension(key="k", kind="float", low=-1.0, high=1.0), -0.00123456, -0.001235),
        (Dimension(key="k", kind="float", low=-1.0, high=1.0), 0.0, 0.0),
        (Dimension(key="k", kind="float", low=0.0, high=1.0, step=0.1), 0.1 + 0.2, 0.3),
        (Dimension(key="k", kind="int", low=1, high=99999), 12345, 12345),
        (Dimension(key="k", kind="choice", choices=(0.123456789,)), 0.123456789, 0.123456789),
    ],
)
def test_proposals_have_four_digits(dimension: Dimension, value: Any, expected: Any) -> None:
    found = dimension.rounded(value)
    assert (found, type(found)) == (expected, type(expected))
    assert dimension.contains(found)
    assert dimension.rounded(found) == found


def test_steps_and_ties_are_the_decimals_people_write() -> None:
    stepped = Dimension(key="k", kind="float", low=0.0, high=0.5, step=0.1)
    assert stepped.values() == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    space = Space(dimensions=(stepped,), ties=(Tie(key="t", to="k", times=0.1),))
    assert space.with_ties({"k": 0.3}) == {"k": 0.3, "t": 0.03}
