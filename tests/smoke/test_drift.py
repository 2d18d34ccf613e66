"""``forge drift``: data like the training data passes, other data ends with the exit code 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forge_process import Workplace, write_text
from test_instruct import INSTRUCT, workplace

DRIFTED = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    found = Workplace(tmp_path_factory.mktemp("drift") / "place", {"train.max_steps": "30"})
    found.train_here()
    return found


def measured(place: Workplace, *arguments: str, expect: int = 0) -> dict[str, Any]:
    output = place.forge_here("drift", "tiny", *arguments, "--json", expect=expect)
    found: dict[str, Any] = json.loads(output[output.index("{") :])
    return found


def test_more_of_the_same_is_within_the_thresholds(trained: Workplace) -> None:
    write_text(trained.path / "more.txt", lines=200, seed=1)
    found = measured(trained, "more.txt")
    assert found["drifted"] == []
    assert found["divergence"]["excess"] < 0.02
    assert abs(found["loss_increase"]) < 0.1
    assert found["new"]["tokens"] > 1_000


def test_other_text_has_drifted_and_says_by_which_tokens(trained: Workplace) -> None:
    lines = [f"{number} + {number} = {2 * number};\n" for number in range(300)]
    (trained.path / "sums.txt").write_text("".join(lines), encoding="utf-8")
    output = trained.forge_here("drift", "tiny@last", "sums.txt", expect=DRIFTED)
    assert "more than 0.05: drifted" in output
    assert "tokens not in the training data" in output
    assert "+'" in output
    found = measured(trained, "sums.txt", expect=DRIFTED)
    assert found["drifted"] == ["tokens", "loss"]
    assert found["divergence"]["unseen"] > 0.1
    loose = ("--threshold", "1", "--loss-threshold", "100")
    assert measured(trained, "sums.txt", *loose)["drifted"] == []
    without = measured(trained, "sums.txt", "-n", "0", expect=DRIFTED)
    assert without["loss_increase"] is None
    assert without["drifted"] == ["tokens"]


def test_what_cannot_be_read_is_named(trained: Workplace) -> None:
    output = trained.forge_here("drift", "tiny", "nosuch.txt", expect=1)
    assert "nosuch.txt" in output
    assert "Traceback" not in output
    output = trained.forge_here("drift", "tiny", "train.txt", "--set", "data.txet=1", expect=2)
    assert "txet" in output


def test_examples_are_held_against_examples(tmp_path: Path) -> None:
    place = workplace(tmp_path, train__max_steps="4")
    place.train_here()
    rows = [{"instruction": f"Add {n} and {n}", "output": f"{2 * n}!!"} for n in range(100)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (place.path / "sums.jsonl").write_text(text, encoding="utf-8")
    found = measured(place, "sums.jsonl", expect=DRIFTED)
    assert found["drifted"][0] == "tokens"
    assert found["new"]["scored"] > 100
    (place.path / "same.toml").write_text(INSTRUCT, encoding="utf-8")
    assert "tokens" not in measured(place, "same.toml")["drifted"]
