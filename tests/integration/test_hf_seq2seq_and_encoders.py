"""hf-seq2seq and hf-encoder train as loops written by hand over transformers do, and write alike.

Fifty steps of AdamW in fp32; the losses agree to a relative 1e-5, since the same sums are taken in
another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import VOCABULARY, Vocabulary, edit, far_from_uniform

from llmforge.errors import ForgeError
from llmforge.interfaces import IGNORE_INDEX, GenerationRequest
from llmforge.plugins import load
from llmforge.testing import TinyTokenizer, make_component, run_context

STEPS, ROWS = 50, 4
RATE = 1e-3
TOLERANCE = 1e-5
LABELS = ("no", "perhaps", "yes")

_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "decoder_start_token_id": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": None,
}
_ROBERTA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 34,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
_BERT: dict[str, Any] = {**_ROBERTA, "pad_token_id": 0, "max_position_embeddings": 32}

CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "t5": ("t5", _T5, "AutoModelForSeq2SeqLM", "seq2seq"),
    "t5 gated and untied": (
        "t5",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "AutoModelForSeq2SeqLM",
        "seq2seq",
    ),
    "bart": ("bart", _BART, "AutoModelForSeq2SeqLM", "seq2seq"),
    "roberta": ("roberta", _ROBERTA, "AutoModelForMaskedLM", "mlm"),
    "bert": ("bert", _BERT, "AutoModelForMaskedLM", "mlm"),
    "roberta of labels": ("roberta", _ROBERTA, "AutoModelForSequenceClassification", "classify"),
}


def save(folder: Path, name: str, *, sharp: bool = False) -> Path:
    kind, fields, auto, _ = CASES[name]
    labels = {"num_labels": len(LABELS)} if auto.endswith("Classification") else {}
    torch.manual_seed(5)
    config = transformers.CONFIG_MAPPING[kind](**fields, **labels)
    model = getattr(transformers, auto).from_config(config)
    if sharp:
        far_from_uniform(model)
    model.save_pretrained(folder)
    return folder


def component_of(form: str) -> str:
    return "hf-seq2seq" if form == "seq2seq" else "hf-encoder"


def built(path: Path, folder: Path, form: str, **options: Any) -> Any:
    name = component_of(form)
    table = {"path": str(folder), "revision": "main", "context": 32, **options}
    run = run_context(
        path,
        context=32,
        config={"model": {"name": name, name: table}},
        form=form,
        labels=LABELS if form == "classify" else (),
    )
    plugin = make_component(load("model", name), table, name=name)
    return plugin.forge_build_model(run, Vocabulary())  # type: ignore[attr-defined]


def batches(form: str) -> list[dict[str, torch.Tensor]]:
    """Return for each step a batch of rows of unequal length, padded with 0."""
    draw = torch.Generator().manual_seed(11)

    def numbers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=draw)

    found = []
    for _ in range(STEPS):
        lengths = numbers(5, 17, ROWS)
        inputs = numbers(3, VOCABULARY, ROWS, 16)
        inputs[torch.arange(16) >= lengths[:, None]] = 0
        batch = {"inputs": inputs, "lengths": lengths}
        if form == "classify":
            batch["targets"] = numbers(0, len(LABELS), ROWS)
        else:
            batch["targets"] = numbers(3, VOCABULARY, ROWS, 5)
            counts = numbers(2, 6, ROWS)
            batch["targets"][torch.arange(5) >= counts[:, None]] = IGNORE_INDEX
        if form == "mlm":
            batch["places"] = numbers(0, 5, ROWS, 1) * 0 + torch.arange(5)
        found.append(batch)
    return found


def hand_loss(model: Any, form: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss as transformers computes it."""
    inputs, targets = batch["inputs"], batch["targets"]
    mask = (torch.arange(16) < batch["lengths"][:, None]).long()
    labels = targets
    if form == "mlm":
        labels = torch.full_like(inputs, IGNORE_INDEX).scatter(1, batch["places"], targets)
    loss: torch.Tensor = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
    return loss


def by_hand(folder: Path, auto: str, form: str) -> list[float]:
    model = getattr(transformers, auto).from_pretrained(folder).train()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for batch in batches(form):
        loss = hand_loss(model, form, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def by_forge(path: Path, folder: Path, form: str, *, micro: int) -> list[float]:
    run = run_context(path, context=32)
    engine = (
        make_component(load("backend", "single"), name="single")
        .forge_build_backend(run)  # type: ignore[attr-defined]
        .prepare(
            lambda: built(path, folder, form),
            lambda named: make_component(
                load("optimizer", "adamw"), {"lr": RATE}
            ).forge_build_optimizer(run, named),  # type: ignore[attr-defined]
            lambda _: 1.0,
        )
    )
    losses = []
    for step, batch in enumerate(batches(form)):
        count = int((batch["targets"] != IGNORE_INDEX).sum())
        for start in range(0, ROWS, micro):
            part = {name: tensor[start : start + micro] for name, tensor in batch.items()}
            engine.accumulate(part, targets=count, seed=1, last=start + micro == ROWS)
        losses.append(float(engine.step(step).loss_sum) / count)
    return losses


@pytest.mark.parametrize("micro", [ROWS, 1], ids=["at once", "accumulated"])
@pytest.mark.parametrize("name", CASES)
def test_it_trains_as_a_loop_over_transformers(tmp_path: Path, name: str, micro: int) -> None:
    _, _, auto, form = CASES[name]
    folder = save(tmp_path / "model", name)
    losses = by_forge(tmp_path, folder, form, micro=micro)
    wanted = by_hand(folder, auto, form)
    assert losses == pytest.approx(wanted, rel=TOLERANCE)
    assert max(wanted) - min(wanted) > 100 * TOLERANCE * wanted[0]


@pytest.mark.parametrize("name", ["t5", "t5 gated and untied", "bart"])
def test_it_writes_what_transformers_writes(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "model", name, sharp=True)
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    reference.generation_config.eos_token_id = 256
    model = built(tmp_path, folder, "seq2seq").eval()
    sources = [[65, 66, 67, 68, 69, 70], [90, 91], [65, 66, 67, 68, 69, 70]]
    sampler = make_component(load("generation", "sampler"), {"greedy": True, "max_new_tokens": 12})
    generator = sampler.forge_build_generator(  # type: ignore[attr-defined]
        run_context(tmp_path), model, TinyTokenizer()
    )
    request = GenerationRequest(prompts=["a", "b", "c"], prompt_ids=sources)
    found = [item.text for item in generator.generate(request)]
    wanted = [
        reference.generate(
            input_ids=torch.tensor([source]), max_new_tokens=12, do_sample=False, num_beams=1
        )[0].tolist()
        for source in sources
    ]
    assert found == [TinyTokenizer().decode([t for t in ids[1:] if t != 256]) for ids in wanted]


def test_labels_come_with_their_names(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "roberta")  # a head for tokens: one for labels is drawn
    model = built(tmp_path, folder, "classify")
    assert model.config.id2label == dict(enumerate(LABELS))
    (batch,) = batches("classify")[:1]
    assert model(batch["inputs"], lengths=batch["lengths"]).shape == (ROWS, len(LABELS))
    assert model.labels(batch).tolist() == [
        int(row.argmax()) for row in model(batch["inputs"], lengths=batch["lengths"])
    ]


@pytest.mark.parametrize("name", ["t5", "roberta", "roberta of labels"])
def test_it_is_built_without_weights_on_the_meta_device(tmp_path: Path, name: str) -> None:
    form = CASES[name][3]
    folder = save(tmp_path / "model", name)
    with torch.device("meta"):
        outline = built(tmp_path, folder, form)
    whole = built(tmp_path, folder, form)
    shapes = {key: value.shape for key, value in whole.named_parameters()}
    assert {key: value.shape for key, value in outline.named_parameters()} == shapes
    assert outline.flops_per_token() == whole.flops_per_token() > 0


@pytest.mark.parametrize(
    ("name", "form", "remedy"),
    [
        ("t5", "mlm", "use the model hf-seq2seq"),
        ("roberta", "seq2seq", "use the model hf-encoder"),
    ],
)
def test_another_kind_of_model_is_refused_before_the_run(
    tmp_path: Path, name: str, form: str, remedy: str
) -> None:
    folder = save(tmp_path / "model", name)
    component = component_of(form)
    table = {"path": str(folder), "revision": "main", "context": 16}
    run = run_context(tmp_path, config={"model": {"name": component, component: table}}, form=form)
    plugin = make_component(load("model", component), table, name=component)
    (problem,) = plugin.forge_preflight(run)  # type: ignore[attr-defined]
    assert problem.remedy == remedy
    assert problem.key == f"model.{component}.path"


def test_a_context_that_roberta_cannot_number_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "roberta")  # 34 positions, of which two are not used
    table = {"path": str(folder), "revision": "main", "context": 33}
    run = run_context(
        tmp_path, config={"model": {"name": "hf-encoder", "hf-encoder": table}}, form="mlm"
    )
    plugin = make_component(load("model", "hf-encoder"), table, name="hf-encoder")
    (problem,) = plugin.forge_preflight(run)  # type: ignore[attr-defined]
    assert problem.key == "model.hf-encoder.context"
    assert problem.remedy == "set it to 32"


def test_weights_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "roberta")
    edit(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ForgeError, match=r"missing: roberta\.encoder\.layer\.2"):
        built(tmp_path, folder, "classify")
