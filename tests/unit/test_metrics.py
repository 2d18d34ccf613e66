"""The built-in metrics give what their libraries give for the whole corpus."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from llmforge.plugins import load
from llmforge.testing import make_component

WORDS = ["the", "river", "is", "long", "and", "cold", "Bees", "dance", "über", "x = y + 1"]


def corpus(size: int) -> tuple[list[str], list[str]]:
    """Return predictions and references that are partly alike."""
    draw = random.Random(size)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(size)]
    predictions = [
        " ".join(draw.choice(WORDS) if draw.random() < 0.4 else word for word in text.split(" "))
        for text in references
    ]
    predictions[0] = ""
    return predictions, references


def measured(
    name: str, predictions: list[Any], references: list[Any], **options: Any
) -> dict[str, float]:
    """Return the values of the metric ``name``, given in batches of 7."""
    component = make_component(load("metric", name), options)
    metric = component.forge_build_metric()
    for begin in range(0, len(predictions), 7):
        metric.update(predictions[begin : begin + 7], references[begin : begin + 7])
    return dict(metric.compute())


@pytest.mark.parametrize(
    "options", [{}, {"lowercase": True, "tokenize": "intl"}, {"max_order": 2, "tokenize": "char"}]
)
def test_bleu_is_that_of_the_corpus_by_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu.metrics import BLEU

    predictions, references = corpus(50)
    theirs = {"max_ngram_order" if key == "max_order" else key: options[key] for key in options}
    expected = BLEU(**theirs).corpus_score(predictions, [references]).score
    assert measured("bleu", predictions, references, **options) == {"bleu": expected}
    assert 0 < expected < 100


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 3, "beta": 1}])
def test_chrf_is_that_of_the_corpus_by_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu.metrics import CHRF

    predictions, references = corpus(50)
    expected = CHRF(**options).corpus_score(predictions, [references]).score
    assert measured("chrf", predictions, references, **options) == {"chrf": expected}
    assert 0 < expected < 100


def test_rouge_is_the_mean_of_what_rouge_score_gives() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    predictions, references = corpus(30)
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(types, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    expected = {name: sum(score[name].fmeasure for score in scores) / 30 for name in types}
    found = measured("rouge", predictions, references, types=types, stemmer=True)
    assert found == pytest.approx(expected, rel=1e-12)
    assert list(measured("rouge", predictions, references)) == ["rougeL"]


def test_rouge_leaves_the_logging_of_the_process_alone() -> None:
    before = list(logging.root.handlers)
    measured("rouge", ["a"], ["a"])
    assert logging.root.handlers == before


def test_codebleu_is_that_of_the_corpus_by_codebleu() -> None:
    from codebleu import calc_codebleu

    references = [f"def f{n}(a, b):\n    total = a * {n}\n    return total + b" for n in range(9)]
    predictions = [
        text.replace("total + b", "b") if n % 2 else text.replace("a *", "b *")
        for n, text in enumerate(references)
    ]
    predictions[3] = "this is ( no python"
    expected = calc_codebleu(references, predictions, lang="python")["codebleu"]
    assert measured("codebleu", predictions, references) == {"codebleu": pytest.approx(expected)}
    assert 0 < expected < 1


def test_codebleu_needs_the_grammar_of_its_language(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmforge_plugins.metrics import codebleu

    monkeypatch.setattr(codebleu, "find_spec", lambda _: None)
    (problem,) = make_component(load("metric", "codebleu"), {"language": "java"}).missing_packages()
    assert problem.key == "metric.codebleu.language"
    assert problem.remedy == "pip install 'tree-sitter-java<0.22,>=0.21'"


def test_an_exact_match_is_word_for_word() -> None:
    references = ["yes", "No", "two words", "x"]
    predictions = [" yes\n", "no", "two  words", ""]
    assert measured("exact_match", predictions, references) == {"exact_match": 0.5}
    found = measured("exact_match", predictions, references, ignore_case=True)
    assert found == {"exact_match": 0.75}


def labels(size: int, kinds: int) -> tuple[list[int], list[int]]:
    """Return predicted and true labels."""
    draw = random.Random(kinds)
    true = [draw.randrange(kinds) for _ in range(size)]
    return [draw.choice([label, draw.randrange(kinds)]) for label in true], true


@pytest.mark.parametrize("balanced", [False, True])
def test_accuracy_is_scikit_learns(balanced: bool) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    predicted, true = labels(200, 5)
    score = balanced_accuracy_score if balanced else accuracy_score
    expected = {"accuracy": pytest.approx(score(true, predicted), rel=1e-12)}
    assert measured("accuracy", predicted, true, balanced=balanced) == expected


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "binary"])
def test_f1_is_scikit_learns(average: str) -> None:
    from sklearn.metrics import f1_score

    predicted, true = labels(200, 2 if average == "binary" else 5)
    expected = pytest.approx(f1_score(true, predicted, average=average), rel=1e-12)
    assert measured("f1", predicted, true, average=average) == {"f1": expected}


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmforge import component

    monkeypatch.setattr(component, "importable", lambda _: False)
    problems = {
        name: make_component(load("metric", name), {}).missing_packages()
        for name in ("chrf", "rouge", "f1")
    }
    remedies = {name: problem.remedy for name, (problem,) in problems.items()}
    assert remedies == {
        "chrf": "pip install 'sacrebleu<3,>=2.4'",
        "rouge": "pip install 'rouge-score>=0.1.2'",
        "f1": "pip install 'scikit-learn>=1.5'",
    }
