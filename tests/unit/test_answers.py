"""Metrics of generated answers: what is asked, what is compared, and who decides by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmforge import Component, hookimpl
from llmforge.data.example_rows import ExampleSplit, Tally
from llmforge.data.questions import questions
from llmforge.errors import DataError, PluginError, RecipeError
from llmforge.interfaces import Completion, GenerationRequest
from llmforge.plugins import build_manager, call_each_factory
from llmforge.recipe import load_recipe
from llmforge.recipe.schema import EarlyStoppingTable, MetricKeys
from llmforge.run.trainer_state import TrainerState
from llmforge.run.training.answers import measure_answers
from llmforge.run.training.early_stopping import EarlyStopping

END = 1
"""The special token that ends a turn."""


class Letters:
    """Letters are tokens; token 1 ends a turn."""

    vocab_size, eos_id, fingerprint = 128, 0, "letters"
    special_tokens: Mapping[str, int] = {"<end>": END}
    eos_token = bos_token = chat_template = mask_token = None

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token > 1)

    def encode_spans(self, text: str, *, special: bool) -> Any:
        raise NotImplementedError

    def encode_whole(self, text: str, pair: str | None = None) -> Any:
        raise NotImplementedError


def split(*rows: Sequence[tuple[str, bool]], end: bool = True) -> ExampleSplit:
    """Return rows of (text, is it learned); an answer ends with the special token."""
    ids: list[int] = []
    scored: list[int] = []
    starts = [0]
    for row in rows:
        for text, learned in row:
            tokens = [*map(ord, text), *([END] if learned and end else [])]
            ids += tokens
            scored += [int(learned)] * len(tokens)
        scored[starts[-1]] = 0
        starts.append(len(ids))
    names = Tally.__dataclass_fields__
    return ExampleSplit(
        ids=np.array(ids, np.uint16),
        scored=np.array(scored, np.uint8),
        starts=np.array(starts, np.int64),
        tally=Tally(**dict.fromkeys(names, 0)),
        template="",
    )


def test_the_prompt_is_all_before_the_last_answer_and_the_reference_has_no_end() -> None:
    rows = split([("Q: a?", False), (" one", True), ("Q: b?", False), (" two\n", True)])
    (found,) = questions(rows, Letters(), rows=0)
    assert Letters().decode(found.prompt) == "Q: a? oneQ: b?"
    assert END in found.prompt
    assert (found.reference, found.end_id) == ("two", END)


def test_an_answer_that_was_cut_off_has_no_end() -> None:
    (found,) = questions(split([("Qu", False), ("abc", True)], end=False), Letters(), rows=0)
    assert (found.reference, found.end_id) == ("abc", None)


def test_the_first_rows_are_asked_and_those_without_a_prompt_are_left_out() -> None:
    one = [("Q", False), ("x", True)]
    rows = split(
        [("all learned", True)], [("Qu", False), ("a", True)], [("Qu", False), ("b", True)]
    )
    assert [item.reference for item in questions(rows, Letters(), rows=1)] == ["a"]
    assert [item.reference for item in questions(rows, Letters(), rows=0)] == ["a", "b"]
    assert list(questions(split(one), Letters(), rows=5)) == []  # one token is no prompt


class Parrot:
    """Answers with the end of the prompt; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []

    def generate(self, request: GenerationRequest) -> list[Completion]:
        self.asked.append(request)
        assert request.on_text is not None
        request.on_text(0, "")
        assert request.prompt_ids is not None
        texts = [" " + Letters().decode(ids)[-1:] for ids in request.prompt_ids]
        return [
            Completion(prompt=prompt, text=text, tokens=1, finish="eos", seconds=0.0)
            for prompt, text in zip(request.prompts, texts, strict=True)
        ]


class Seen:
    """Keeps pairs."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        self.pairs += zip(predictions, references, strict=True)

    def compute(self) -> Mapping[str, float]:
        return {"same": sum(a == b for a, b in self.pairs) / len(self.pairs)}


ROWS = [[(f"Q{n}", False), (f"{n % 3}", True)] for n in range(10, 50)]


def measure(
    generator: Any, metric: Any, rows: ExampleSplit, *, first: int = 0, **options: Any
) -> Any:
    keys = MetricKeys(rows=first, max_new_tokens=5)
    return measure_answers(
        generator, {"same": metric}, rows, tokenizer=Letters(), keys=keys, name="val", **options
    )


def test_answers_are_greedy_bounded_and_in_the_order_of_the_rows() -> None:
    parrot, seen = Parrot(), Seen()
    values = measure(parrot, seen, split(*ROWS), first=35)
    assert seen.pairs == [(str(n)[-1], str(n % 3)) for n in range(10, 45)]
    assert values == {"val/same": sum(a == b for a, b in seen.pairs) / 35}
    assert [len(request.prompts) for request in parrot.asked] == [16, 16, 3]
    for request in parrot.asked:
        assert (request.greedy, request.max_new_tokens) == (True, 5)
        assert request.stop_ids == {END}


def test_a_stop_ends_it_before_the_next_batch_and_gives_no_values() -> None:
    answers = iter([False, True])
    parrot, seen = Parrot(), Seen()
    assert measure(parrot, seen, split(*ROWS), stop=lambda: next(answers)) is None
    assert len(parrot.asked) == 1


def test_a_check_may_break_off_while_a_text_is_generated() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Parrot(), Seen(), split(*ROWS), check=check)


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    import torch

    class Small(Parrot):
        def generate(self, request: GenerationRequest) -> list[Completion]:
            if len(request.prompts) > 4:
                raise torch.OutOfMemoryError
            return super().generate(request)

    small, whole, pieces = Small(), Seen(), Seen()
    assert measure(small, pieces, split(*ROWS)) == measure(Parrot(), whole, split(*ROWS))
    assert pieces.pairs == whole.pairs
    assert {len(request.prompts) for request in small.asked} == {4}


def test_rows_without_any_prompt_are_an_error_with_a_remedy() -> None:
    with pytest.raises(DataError, match="no row has a prompt"):
        measure(Parrot(), Seen(), split([("all learned", True)]))


class Answering(Component, kind="metric"):
    """A metric."""

    asked: int = 0
    nothing = False

    @hookimpl
    def forge_build_metric(self) -> Any:
        self.asked += 1
        return None if self.nothing else Seen()


class Other(Answering):
    """Another."""


def test_forge_build_metric_is_asked_for_each_evaluation() -> None:
    first, second = Answering(), Other()
    first.name, second.name = "first", "second"
    manager = build_manager([first, second])
    once = call_each_factory(manager, "forge_build_metric", run=None)
    again = call_each_factory(manager, "forge_build_metric", run=None)
    assert list(once) == ["first", "second"]
    assert once["first"] is not again["first"]
    assert (first.asked, second.asked) == (2, 2)
    second.nothing = True
    with pytest.raises(PluginError, match="forge_build_metric of metric:second returned None"):
        call_each_factory(manager, "forge_build_metric", run=None)


# Deciding -----------------------------------------------------------------------------------


def judged(direction: str, values: Sequence[float | None], *, delta: float = 0.0) -> list[bool]:
    metric = "val/chrf" if direction == "maximize" else "val/loss"
    recipe = load_recipe(
        "alpaca_custom_tiny",
        overrides={"metric.names": ["chrf"], "early_stopping": {"metric": metric}},
    )
    options = EarlyStoppingTable(metric=metric, min_delta=delta)
    stand_in = SimpleNamespace(early_stopping=options, selections=recipe.selections)
    stopping = EarlyStopping(stand_in, TrainerState())  # type: ignore[arg-type]
    return [stopping.judge({} if value is None else {metric: value}) for value in values]


def test_more_of_a_metric_is_better_and_less_of_a_loss() -> None:
    assert judged("maximize", [1.0, 2.0, 1.5, 2.0, 3.0]) == [True, True, False, False, True]
    assert judged("minimize", [1.0, 2.0, 0.5]) == [True, False, True]
    assert judged("maximize", [1.0, 1.5, 2.5], delta=1.0) == [True, False, True]


def test_an_evaluation_that_did_not_measure_it_does_not_count() -> None:
    recipe = load_recipe(
        "alpaca_custom_tiny",
        overrides={"metric.names": ["chrf"], "early_stopping": {"metric": "val/chrf"}},
    )
    state = TrainerState()
    stopping = EarlyStopping(recipe, state)
    for values in ({"val/chrf": 2.0}, {"val/loss": 1.0}, {"val/chrf": 1.0}):
        stopping.judge(values)
    assert state.stale_evaluations == 1


# Recipes ------------------------------------------------------------------------------------


def problems(tmp_path: Path, text: str, base: str = "alpaca_custom_tiny") -> list[str]:
    """Return what is wrong with a recipe that extends ``base``."""
    path = tmp_path / "r.toml"
    path.write_text(f'extends = "{base}"\n{text}', encoding="utf-8")
    try:
        load_recipe(path)
    except RecipeError as error:
        return [f"{item.key}: {item.message} ({item.remedy})" for item in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('[early_stopping]\nmetric = "val/chrf"', "early_stopping.metric", 'names = ["chrf"]'),
        (
            '[metric]\nnames = ["chrf"]\n[early_stopping]\nmetric = "val/chrfs"',
            "early_stopping.metric",
            "did you mean 'val/chrf'",
        ),
        ('[metric]\nnames = ["f1"]', "metric.names", "has no labels (f1)"),
        (
            '[metric]\nnames = ["chrf"]\n[data.instruct]\ntrain_on = "all"',
            "data.instruct.train_on",
            '"responses"',
        ),
        ('[metric]\nnames = ["chrf"]\nevery = 150', "metric.every", "multiple of eval.every, 100"),
        ("[metric]\nevery = 100", "metric.every", "set metric.names"),
        ('[metric]\nnames = ["chrf"]\nrows = -1', "metric.rows", "greater than or equal to 0"),
        (
            '[sweep]\nname = "random"\nmetric = "val/chrf"\n[sweep.space]\n'
            '"optimizer.adamw.lr" = {log = [1e-4, 1e-3]}',
            "sweep.metric",
            'metric.names = ["chrf"]',
        ),
        ('[metric.rouge]\ntypes = ["rouge0"]', "metric.rouge.types", "rougeLsum"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused(
    tmp_path: Path, text: str, key: str, message: str
) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"{key}: ")
    assert message in found


def test_running_text_has_no_answers_and_says_so_once(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, '[metric]\nnames = ["chrf", "bleu"]', base="wikitext_tiny")
    assert found.startswith("metric.names: data 'wikitext' has no answers")
    assert "(chrf, bleu)" in found
    assert 'data.name = "instruct"' in found


@pytest.mark.parametrize(
    ("metric", "given", "direction"),
    [
        ("val/chrf", "", "maximize"),
        ("val/loss", "", "minimize"),
        ("val/chrf", 'direction = "minimize"', "minimize"),
    ],
)
def test_a_sweep_takes_the_direction_of_its_metric(
    tmp_path: Path, metric: str, given: str, direction: str
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f'extends = "alpaca_custom_tiny"\n[metric]\nnames = ["chrf"]\n'
        f'[sweep]\nname = "random"\nmetric = "{metric}"\n{given}\n'
        '[sweep.space]\n"optimizer.adamw.lr" = {log = [1e-4, 1e-3]}\n',
        encoding="utf-8",
    )
    recipe = load_recipe(path)
    assert recipe.sweep.direction == recipe.tables["sweep"]["direction"] == direction


def test_metrics_are_safe_to_change_and_the_deciding_one_is_not() -> None:
    from llmforge.recipe import run_id

    plain = run_id(load_recipe("alpaca_custom_tiny"))
    more = {"metric.names": ["chrf"], "metric.rows": 5}
    assert run_id(load_recipe("alpaca_custom_tiny", overrides=more)) == plain
    decides = {**more, "early_stopping.metric": "val/chrf"}
    assert run_id(load_recipe("alpaca_custom_tiny", overrides=decides)) != plain
