"""int8 weights in models of Hugging Face, and behind ``forge serve``: the text is generate's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import CONTEXT, VOCABULARY, Vocabulary, built, save
from serve_process import ServeProcess, make_chat_run

from llmforge.generation import generate_texts, open_checkpoint
from llmforge.generation.int8_layers import Int8Linear, quantise_layers
from llmforge.plugins import load
from llmforge.testing import make_component, run_context

PROMPT = "The history of the river"


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


def losses(model: Any, batch: dict[str, torch.Tensor]) -> float:
    with torch.inference_mode():
        loss, count = model.loss(batch)
    return float(loss / count)


@pytest.mark.parametrize(("kind", "layers"), [("gpt2", 9), ("llama", 15), ("gpt_neox", 9)])
def test_a_causal_model_keeps_its_loss_and_its_cache(
    kind: str, layers: int, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    folder = save(tmp_path / kind, kind)
    plain, small = built(tmp_path, folder).eval(), built(tmp_path, folder).eval()
    summary = quantise_layers(small)
    assert summary.layers == layers
    assert isinstance(small.inner.get_output_embeddings(), Int8Linear)
    batch = {"inputs": ids(3, CONTEXT), "targets": ids(3, CONTEXT)}
    assert losses(small, batch) == pytest.approx(losses(plain, batch), rel=0.01)
    with torch.inference_mode():
        expected, whole = plain(batch["inputs"]), small(batch["inputs"])
        assert float((whole - expected).abs().mean()) < 0.1 * float(expected.std())
        cache = small.new_cache(3, CONTEXT)
        parts = [small(part, cache=cache) for part in batch["inputs"].split((20, 1, 1, 10), dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0.05, atol=0.1)
        scored, _ = small.sequence_log_probs(batch)
    assert float(-scored.sum()) / scored.numel() / CONTEXT == pytest.approx(losses(small, batch))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_keeps_its_loss(kind: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {}
    if kind == "bart":
        sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 0}
        sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_start_token_id": 2}
    folder = save(tmp_path / kind, kind, auto="AutoModelForSeq2SeqLM", **sizes)
    tables = {"path": str(folder), "context": CONTEXT}
    models = []
    for _ in range(2):
        component: Any = make_component(load("model", "hf-seq2seq"), tables, name="hf-seq2seq")
        run = run_context(tmp_path, context=CONTEXT, config={"model": {"name": "hf-seq2seq"}})
        models.append(component.forge_build_model(run, Vocabulary()).eval())
    plain, small = models
    assert quantise_layers(small).layers > 8
    batch = {
        "inputs": ids(2, 12),
        "targets": ids(2, 9),
        "lengths": torch.tensor([12, 7]),
    }
    assert losses(small, batch) == pytest.approx(losses(plain, batch), rel=0.01)
    with torch.inference_mode():
        cache = small.read(batch["inputs"], batch["lengths"])
        logits = small(batch["targets"][:, :1], cache=cache)
    assert bool(logits.isfinite().all())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    make_chat_run(base)
    return base


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServeProcess]:
    with ServeProcess(root, "talk", "--max-batch", "8", "--dtype", "int8") as process:
        yield process


def test_every_served_answer_is_the_text_of_generate(server: ServeProcess, root: Path) -> None:
    assert "talk at step 1, cpu, int8" in server.log
    assert "linear layers" in server.log
    assert "not compared with fp32" in server.log  # the run's text is nowhere
    loaded = open_checkpoint("talk", root=root, device="cpu", dtype="int8")
    prompts = [PROMPT, "a", PROMPT + " and more of it", "zz"]
    answer = server.client().completions.create(model="talk", prompt=prompts, seed=5, max_tokens=16)
    alone = [
        item.text
        for prompt in prompts
        for item in generate_texts(loaded, [prompt], max_new_tokens=16, seed=5, chat=False)
    ]
    assert [choice.text for choice in answer.choices] == alone
