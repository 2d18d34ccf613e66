"""Examples as rows of tokens, and rows as batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_styles import tokenizer
from example_parts import Examples, prepare

from llmforge.data.audit import audit, audit_lines, audit_warnings
from llmforge.data.example_batches import ExampleBatches, example_evaluation_batches
from llmforge.data.example_rows import ExampleSplit, prepare_examples
from llmforge.errors import DataError
from llmforge.interfaces import (
    IGNORE_INDEX,
    Conversation,
    ExampleLayout,
    Message,
    Row,
)
from llmforge_plugins.tokenizers.bytes import ByteTokenizer

END = 256


def rows(split: ExampleSplit) -> list[tuple[list[int], list[int]]]:
    return [tuple(part.tolist() for part in split.row(index)) for index in range(split.rows)]  # type: ignore[misc]


def test_a_row_is_the_example_and_what_is_learned_of_it(tmp_path: Path) -> None:
    split = prepare(Examples((2, 3)), tmp_path)
    assert rows(split) == [([*b"uu", END, *b"aaa", END], [0, 0, 0, 1, 1, 1, 1])]
    assert (split.n_tokens, split.targets.tolist(), split.tally.targets) == (7, [4], 4)


@pytest.mark.parametrize(
    ("rule", "found", "counts"),
    [
        ("drop", [], (0, 2)),
        ("right", ["uuuu$aaaa", "u$bbbbbbb"], (2, 0)),
        ("left", ["aaaaaaaa$", "bbbbbbbb$"], (2, 0)),
        ("split", ["uuuu$aaaa", "aaaaaaa$", "u$bbbbbbb", "bbbb$"], (2, 0)),
    ],
)
def test_what_is_longer_than_the_context_follows_the_rule(
    rule: Any, found: list[str], counts: tuple[int, int], tmp_path: Path
) -> None:
    data = Examples((4, 10), (1, 10), (1, 1), truncate=rule)
    split = prepare(data, tmp_path, context=8)
    text = ["".join("$" if i == END else chr(i) for i in ids) for ids, _ in rows(split)]
    assert text == [*found, "u$c$"]
    assert (split.tally.truncated, split.tally.dropped) == counts
    assert all(scored[0] == 0 for _, scored in rows(split))
    if rule == "split":  # every learned token once
        assert split.tally.targets == 11 + 11 + 2


def test_rows_are_made_once(tmp_path: Path) -> None:
    data = Examples((2, 3), (4, 5))
    first = prepare(data, tmp_path)
    again = prepare(data, tmp_path)
    assert data.read == 1
    assert rows(first) == rows(again)
    prepare(data, tmp_path, context=12)
    assert data.read == 2


def test_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    data = Examples((2, 3), (4, 5))
    before = rows(prepare(data, tmp_path))
    (file,) = tmp_path.glob("examples/*/train.scored")
    file.write_bytes(b"\1" * file.stat().st_size)
    assert rows(prepare(data, tmp_path)) == before
    assert data.read == 2


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 2 examples of train are longer than the context of 4"):
        prepare(Examples((20, 3), (9, 9)), tmp_path, context=4)
    with pytest.raises(DataError, match="nothing of train is learned: 0 %"):
        prepare(Examples((20, 3), truncate="right"), tmp_path, context=4)


def test_an_example_that_cannot_be_laid_out_is_named(tmp_path: Path) -> None:
    data = Examples((2, 3))
    file = tmp_path / "mine.jinja"
    file.write_text("{{ raise_exception('no') }}")
    data.layout = ExampleLayout(template=str(file))
    with pytest.raises(DataError, match=r"x\.jsonl:1: the template .*mine\.jinja refuses it: no"):
        prepare(data, tmp_path)
    data.layout = ExampleLayout(template="missing.jinja")
    with pytest.raises(DataError, match=r"the template 'missing\.jinja' cannot be read"):
        prepare(data, tmp_path)


LENGTHS = [(1 + number % 5, 1 + number * 7 % 9) for number in range(13)]


def test_every_row_comes_once_an_epoch_whatever_the_batch(tmp_path: Path) -> None:
    split = prepare(Examples(*LENGTHS), tmp_path)
    batches = ExampleBatches(split, context=16, batch_size=4, seed=3)
    whole = [batches.batch(position, 1) for position in range(13)]
    seen = sorted(
        tuple(item["targets"][0][item["targets"][0] != IGNORE_INDEX].tolist()) for item in whole
    )
    assert len(seen) == 13
    assert sum(map(len, seen)) == split.tally.targets
    together = batches.batch(0, 13)
    alone = [row["targets"][0] for row in whole]
    for joined, single in zip(together["targets"], alone, strict=True):
        assert joined[joined != IGNORE_INDEX].tolist() == single[single != IGNORE_INDEX].tolist()
    assert batches.targets(0, 13) == split.tally.targets
    assert batches.targets(5, 4) == int((batches.batch(5, 4)["targets"] != IGNORE_INDEX).sum())
    assert batches.tokens(13) == split.n_tokens
    rest = split.lengths[batches.order.windows(26, 4)].sum()
    assert batches.tokens(30) == 2 * split.n_tokens + rest
    assert [batches.epochs.end(k) for k in (1, 2, 3)] == [4, 7, 10]


def test_inputs_and_targets_are_one_apart(tmp_path: Path) -> None:
    split = prepare(Examples((2, 3)), tmp_path)
    batch = ExampleBatches(split, context=16, batch_size=1, seed=0).batch(0, 1)
    assert batch["inputs"][0][:6].tolist() == [*b"uu", END, *b"aaa"]
    ignored = [IGNORE_INDEX] * 2
    assert batch["targets"][0][:6].tolist() == [*ignored, *b"aaa", END]
    assert set(batch["targets"][0][6:].tolist()) == {IGNORE_INDEX}
    assert batch["inputs"].shape == (1, 16)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_scores_everything_once(ranks: int, tmp_path: Path) -> None:
    split = prepare(Examples(*LENGTHS), tmp_path)
    batches = list(example_evaluation_batches(split, context=16, batch_size=4, ranks=ranks))
    assert sum(int((b["targets"] != IGNORE_INDEX).sum()) for b in batches) == split.tally.targets
    assert max(len(batch["inputs"]) for batch in batches) <= 4


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_splitting_a_batch_changes_no_gradient(micro: int, tmp_path: Path) -> None:
    from llmforge.testing import TinyModel

    split = prepare(Examples(*LENGTHS), tmp_path)
    batches = ExampleBatches(split, context=16, batch_size=8, seed=1)

    def gradients(size: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = TinyModel(vocab_size=257, context=16)
        divisor = batches.targets(0, 8)
        for start in range(0, 8, size):
            loss, _ = model.loss(batches.batch(start, size))
            (loss / divisor).backward()
        return [p.grad for _, p in model.named_parameters() if p.grad is not None]

    for whole, parts in zip(gradients(8), gradients(micro), strict=True):
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)


def test_a_template_of_the_tokenizer_is_taken_by_itself(tmp_path: Path) -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    tokens = tokenizer("</s>", template=source)
    data = Examples((2, 3))
    data.layout = ExampleLayout()
    split = prepare_examples(
        data,
        tokens,
        context=64,
        cache=tmp_path,
        notice=print,
        check_stop=lambda: None,
    )["train"]
    ids, scored = split.row(0)
    text = tokens._inner.decode(ids.tolist(), skip_special_tokens=False)
    assert text == "[user]uu</s>[assistant]aaa</s>"
    learned = tokens._inner.decode(ids[np.flatnonzero(scored)].tolist(), skip_special_tokens=False)
    assert learned == "aaa</s>"


def test_little_to_learn_is_worth_a_warning(tmp_path: Path) -> None:
    split = prepare(Examples((900, 1), (300, 1)), tmp_path, context=1000)
    (warning,) = audit_warnings(audit({"train": split}, ByteTokenizer()))
    assert warning.startswith("only 0.33% of the tokens of train are learned, the least in row 1;")
    assert (
        audit_warnings(audit({"train": prepare(Examples((2, 3)), tmp_path)}, ByteTokenizer())) == []
    )


def test_what_only_looks_like_a_special_token_is_worth_a_warning(tmp_path: Path) -> None:
    def row(text: str, times: int) -> list[Row]:
        return [Row((*text.encode(), END), (False,) * len(text) + (True,))] * times

    def found(*rows: list[Row]) -> list[str]:
        every = [item for group in rows for item in group]
        split = ExampleSplit(
            ids=np.concatenate([item.ids for item in every]),
            scored=np.concatenate([item.scored for item in every]).astype(np.uint8),
            starts=np.cumsum([0, *(len(item.ids) for item in every)]),
            tally=prepare(Examples((2, 3)), tmp_path).tally,
            template="",
        )
        return audit_warnings(audit({"train": split}, ByteTokenizer()))

    (warning,) = found(row("<|im_start|>user a<|im_end|>b", 2), row("plain", 1))
    assert warning.startswith("<|im_")
    assert "no special tokens of this tokenizer" in warning
    assert found(row("plain <b> [1] <|", 1)) == []
    assert found(row("of people: [INST]", 1), row("plain", 3)) == []


class WithValidation(Examples):
    """The same examples in both splits, and one more to validate on."""

    def __init__(self, *lengths: tuple[int, int]) -> None:
        super().__init__(*lengths)
        self.splits = ("validation", "train")

    def examples(self, split: str) -> Iterator[Conversation]:
        yield from super().examples("train")
        if split == "validation":
            said = (Message(role="user", content="new"), Message(role="assistant", content="z"))
            yield Conversation(messages=said, source="y.jsonl:1")


def test_what_is_in_both_splits_or_there_twice_is_counted(tmp_path: Path) -> None:
    data = WithValidation((2, 3), (4, 5))
    splits = prepare_examples(
        data, ByteTokenizer(), context=16, cache=tmp_path, notice=print, check_stop=lambda: None
    )
    assert list(splits) == ["train", "validation"]
    assert (splits["train"].tally.overlap, splits["validation"].tally.overlap) == (0, 2)
    found = audit(splits, ByteTokenizer())
    assert found["validation"].tally["overlap"] == 2
    assert sum(count for _, count in found["validation"].lengths) == 3
    (train, validation) = audit_lines(found)
    assert train == "train: 2 examples, 2 rows of 9 tokens, 56% learned"
    assert validation.endswith("2 of them in train too")
