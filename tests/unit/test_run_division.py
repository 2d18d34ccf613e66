"""How the global batch is divided: the equation, who takes what, and what contradicts itself."""

from __future__ import annotations

import pytest

from llmforge.errors import RecipeError
from llmforge.recipe import load_recipe
from llmforge.run.micro_batches import Division, divide_batch


def division(*overrides: str, ranks: int = 1, device: str = "cuda", **resolved: int) -> Division:
    recipe = load_recipe("wikitext_tiny", overrides=[f"train.{text}" for text in overrides])
    return divide_batch(recipe, resolved, device=device, ranks=ranks)


def test_the_equation_is_told() -> None:
    found = division("batch_size=64", "micro_batch_size=8", ranks=2)
    assert str(found) == "batch 64 = 8 per micro-batch x 4 accumulated x 2 ranks"
    assert str(division("batch_size=4")).endswith("x 1 accumulated x 1 rank")


@pytest.mark.parametrize(
    "given",
    [
        ("batch_size=16", "micro_batch_size=4"),
        ("batch_size=16", "accumulation=2"),
        ("batch_size=16", "micro_batch_size=4", "accumulation=2"),
    ],
)
def test_of_two_given_the_third_follows(given: tuple[str, ...]) -> None:
    found = division(*given, ranks=2)
    assert (found.batch, found.micro, found.accumulated) == (16, 4, 2)


def test_of_one_process_the_batch_may_follow(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    text = (
        '[model]\nname = "transformer"\n[data]\nname = "text"\n[data.text]\ntrain = "x"\n[train]\n'
    )
    path.write_text(f"{text}max_steps = 1\nmicro_batch_size = 3\naccumulation = 5\n")
    recipe = load_recipe(path)
    assert recipe.train.batch_size == 15
    with pytest.raises(RecipeError, match="15 sequences cannot be divided among 2 ranks"):
        divide_batch(recipe, {}, device="cpu", ranks=2)


@pytest.mark.parametrize(
    ("given", "ranks", "message"),
    [
        (["batch_size=6"], 4, "6 sequences cannot be divided among 4 ranks"),
        (
            ["batch_size=16", "micro_batch_size=4", "accumulation=4"],
            2,
            "batch_size 16 is not micro_batch_size 4 x accumulation 4 x 2 ranks, which is 32",
        ),
        (
            ["batch_size=16", "batch_warmup_steps=4", "batch_warmup_from=2"],
            4,
            "2 sequences cannot be divided among 4 ranks",
        ),
        (["batch_size=16", "micro_batch_size=16"], 2, "16 does not divide the 8 sequences"),
        (["batch_size=16", "accumulation=16"], 2, "are not 16 equal micro-batches"),
    ],
)
def test_numbers_that_do_not_multiply_up_are_refused(
    given: list[str], ranks: int, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        division(*given, ranks=ranks)
    assert message in str(caught.value)


def test_an_accumulation_that_no_number_of_processes_allows_is_refused_with_the_recipe() -> None:
    with pytest.raises(RecipeError, match="problem") as caught:
        division("batch_size=16", "accumulation=3")
    assert "cannot be made of 3 micro-batches" in str(caught.value)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_step_has_the_same_sequences_for_any_number_of_ranks(ranks: int) -> None:
    taken: list[tuple[int, int]] = []
    for rank in range(ranks):
        taken += Division(batch=16, micro=2, ranks=ranks, rank=rank).micro_batches()
    # Index and first sequence: the index, from which dropout derives, goes with the sequences.
    assert sorted(taken) == [(index, index * 2) for index in range(8)]


def test_ranks_take_turns_at_micro_batches() -> None:
    second = Division(batch=16, micro=2, ranks=2, rank=1)
    assert list(second.micro_batches()) == [(1, 2), (3, 6), (5, 10), (7, 14)]


def test_what_an_earlier_start_found_to_fit_is_kept_as_far_as_it_divides() -> None:
    assert division("batch_size=48", ranks=1, micro_batch_size=16).micro == 16
    assert division("batch_size=48", ranks=2, micro_batch_size=16).micro == 12


def test_a_smaller_micro_batch_divides_the_share_until_there_is_none() -> None:
    sizes = []
    found: Division | None = Division(batch=36, micro=18, ranks=2)
    while found is not None:
        sizes.append(found.micro)
        found = found.smaller()
    assert sizes == [18, 9, 3, 1]


@pytest.mark.parametrize(
    ("batch", "ranks", "micro"), [(36, 2, 9), (18, 2, 9), (8, 2, 4), (5, 1, 5)]
)
def test_a_batch_of_another_size_has_micro_batches_as_large_at_most(
    batch: int, ranks: int, micro: int
) -> None:
    found = Division(batch=36, micro=9, ranks=ranks).of(batch)
    assert (found.batch, found.micro, found.ranks) == (batch, micro, ranks)


@pytest.mark.parametrize(("packed", "micro"), [(False, 64), (True, 8)])
def test_a_cpu_takes_fewer_rows_at_once_when_they_are_full_of_examples(
    packed: bool, micro: int
) -> None:
    recipe = load_recipe("wikitext_tiny", overrides=["train.batch_size=64"])
    found = divide_batch(recipe, {}, device="cpu", longest=256, packed=packed)
    assert found.micro == micro
    kept = divide_batch(recipe, {"micro_batch_size": 32}, device="cpu", longest=256, packed=packed)
    assert kept.micro == 32  # of a run that had started before
