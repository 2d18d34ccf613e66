"""Windows of text that hold several documents, which do not see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_parts import small_model

from llmforge.data.batches import evaluation_batches, train_batches
from llmforge.data.shards import TokenShard, TokenSplit
from llmforge.errors import RecipeError
from llmforge.recipe import load_recipe

END = 7


def split(ids: list[int], **changes: Any) -> TokenSplit:
    shard = TokenShard(name="text", path=Path("text"), ids=np.array(ids, dtype=np.uint16))
    return TokenSplit(shards=(shard,), n_bytes=None, documents=2, **changes)


IDS = [1, 2, 3, END, 4, 5, END, END, 6, 1, 2, 3, 4]


def test_a_document_begins_with_the_end_of_the_one_before() -> None:
    (batch,) = evaluation_batches(split(IDS, divided_at=END), context=12, batch_size=1)
    assert batch["segments"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 3, 4]]


def test_a_window_that_begins_with_an_end_has_no_document_before_it() -> None:
    (batch,) = evaluation_batches(
        split([END, 1, END, 2, 3], divided_at=END), context=4, batch_size=1
    )
    assert batch["segments"].tolist() == [[0, 0, 1, 1]]
    assert batch["positions"].tolist() == [[0, 1, 0, 1]]


def test_training_windows_are_divided_alike_and_else_the_same() -> None:
    settings: dict[str, Any] = {"context": 4, "batch_size": 3, "seed": 3}
    plain = train_batches(split(IDS), **settings).batch(0, 3)
    divided = train_batches(split(IDS, divided_at=END), **settings).batch(0, 3)
    assert set(plain) == {"inputs", "targets"}
    assert all(torch.equal(plain[name], divided[name]) for name in plain)
    begins = divided["inputs"] == END
    begins[:, 0] = False
    assert torch.equal(divided["segments"], begins.cumsum(1))


def test_the_loss_is_that_of_the_documents_alone() -> None:
    model = small_model(context=12)
    (batch,) = evaluation_batches(split(IDS, divided_at=END), context=12, batch_size=1)
    found, count = model.loss(batch)
    apart = []
    for begin, end in ((0, 3), (3, 6), (6, 7), (7, 12)):
        inputs, targets = (torch.tensor([IDS[begin + by : end + by]]) for by in (0, 1))
        apart.append(model.loss({"inputs": inputs, "targets": targets})[0])
    torch.testing.assert_close(found, torch.stack(apart).sum())
    assert int(count) == 12


RECIPE = """
[model]
name = "{model}"
[data]
name = "{data}"
[data.text]
train = "t.txt"
[data.instruct]
train = "text.json"
[model.hf-encoder]
path = "roberta-base"
[train]
max_steps = 2
document_mask = true
"""


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("transformer", "instruct", "has examples and no running text"),
        ("hf-encoder", "text", "cannot keep the documents of a window apart"),
    ],
)
def test_what_has_no_documents_to_keep_apart_is_refused(
    tmp_path: Path, model: str, data: str, words: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(model=model, data=data))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert any(
        problem.key == "train.document_mask" and words in problem.message
        for problem in caught.value.problems
    )
