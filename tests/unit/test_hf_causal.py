"""The model hf-causal: what it computes, what it takes from a folder, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import (
    CONTEXT,
    VOCABULARY,
    built,
    component,
    edit,
    model_run,
    reference,
    save,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from llmforge.errors import ForgeError, RecipeError
from llmforge.interfaces import IGNORE_INDEX, model_blocks
from llmforge.plugins import load
from llmforge.testing import ModelContract
from llmforge_plugins.models import _cross_entropy

KINDS = ("gpt2", "llama", "gpt_neox")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    return {kind: save(base / kind, kind) for kind in KINDS}


@pytest.fixture
def gpt2(tmp_path: Path, folders: dict[str, Path]) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(folders["gpt2"], tmp_path / "gpt2"))


def ids(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


@pytest.mark.parametrize("kind", KINDS)
class TestHfCausal(ModelContract):
    component = load("model", "hf-causal")
    learning_rate = 1e-2

    # weights that are read may be worse than knowing nothing
    test_a_fresh_model_is_no_worse_than_knowing_nothing = None

    @pytest.fixture
    def plugin(self, kind: str, folders: dict[str, Path]) -> Any:
        return component(folders[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_outputs_are_those_of_transformers(
    tmp_path: Path, folders: dict[str, Path], kind: str
) -> None:
    model, wanted = built(tmp_path, folders[kind]).eval(), reference(folders[kind]).eval()
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in wanted.named_parameters()
    ]
    assert model.state_dict().keys() == wanted.state_dict().keys()
    assert torch.equal(model(ids(2, 9)), wanted(ids(2, 9)).logits)
    assert len(model_blocks(model)) == 2
    assert model.context == CONTEXT


OTHERS = {
    "a scale after the output matrix": ("cohere", {"logit_scale": 0.25}, 0.25),
    "a divisor after the output matrix": ("granite", {"logits_scaling": 8.0}, 0.125),
    "a bias of the output matrix": ("phi", {}, 1.0),
    "logits that are bent": ("gemma2", {"final_logit_softcapping": 2.0}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_loss_respects(tmp_path: Path, name: str) -> None:
    kind, changes, scale = OTHERS[name]
    folder = save(tmp_path / kind, kind, **changes)
    model = built(tmp_path, folder)
    assert model._logit_scale == scale
    if kind == "phi":
        with torch.no_grad():
            model.lm_head.bias.normal_()
    inputs, targets = ids(2, 9), ids(2, 9, seed=4)
    logits = model(inputs).flatten(0, 1)
    expected = functional.cross_entropy(logits, targets.flatten(), reduction="sum")
    wanted = dict(zip_gradients(model, expected))
    loss, count = model.loss({"inputs": inputs, "targets": targets})
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert int(count) == targets.numel()
    for key, gradient in zip_gradients(model, loss):
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-4, atol=1e-5)


def zip_gradients(model: Any, loss: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    names = [name for name, _ in model.named_parameters()]
    return list(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_never_holds_the_logits_of_all_positions(
    tmp_path: Path, folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cross_entropy, "LOSS_CHUNKS", ("8",))
    model = built(tmp_path, folders[kind])
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor) and VOCABULARY in tensor.shape[1:]:
                    largest = max(largest, tensor.shape[0])
            return out

    with Watch():
        model.loss({"inputs": ids(3, 20), "targets": ids(3, 20)})[0].backward()
        scores, _ = model.sequence_log_probs({"inputs": ids(3, 20), "targets": ids(3, 20)})
        scores.square().sum().backward()
    assert largest <= 32  # a weight's gradient is [257, 32] or its transpose; logits are 8 rows


def test_the_chunked_loss_can_be_traced_for_batches_of_any_length() -> None:
    hidden, weight = torch.randn(48, 8), torch.randn(50, 8)
    targets = torch.randint(50, (48,))
    logits, scored = hidden @ weight.t(), targets != IGNORE_INDEX

    def part(logits: torch.Tensor, targets: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        return _cross_entropy._log_probs_and_gradient_(logits, targets, scored, 0.0)

    traced = make_fx(part, tracing_mode="symbolic")(logits.clone(), targets, scored)
    torch.testing.assert_close(
        traced(logits.clone(), targets, scored),
        -functional.cross_entropy(logits, targets, reduction="none"),
    )


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_row_is_its_examples_alone(
    tmp_path: Path, folders: dict[str, Path], kind: str, attn: str
) -> None:
    model = built(tmp_path, folders[kind], attn=attn)
    lengths, rows = ((5, 9, 4), (11, 6, 1)), []
    alone = torch.zeros(())
    batch: dict[str, list[torch.Tensor]] = {"inputs": [], "targets": [], "segments": []}
    batch["positions"] = []
    for row, parts in enumerate(lengths):
        inputs, targets = ids(1, 18, seed=row), ids(1, 18, seed=row + 9)
        targets[0, -1] = IGNORE_INDEX if row else targets[0, -1]
        rows = torch.split(inputs, parts, 1), torch.split(targets, parts, 1)
        for one, wanted in zip(*rows, strict=True):
            alone = alone + model.loss({"inputs": one, "targets": wanted})[0]
        numbers = [torch.full((n,), number) for number, n in enumerate(parts)]
        batch["segments"].append(torch.cat(numbers)[None])
        batch["positions"].append(torch.cat([torch.arange(n) for n in parts])[None])
        batch["inputs"].append(inputs)
        batch["targets"].append(targets)
    packed, count = model.loss({key: torch.cat(value) for key, value in batch.items()})
    assert int(count) == 35
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=1e-6)
    wanted = dict(zip_gradients(model, alone / count))
    for name, gradient in zip_gradients(model, packed / count):
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_a_cache_is_generation_without(
    tmp_path: Path, folders: dict[str, Path], kind: str
) -> None:
    model = built(tmp_path, folders[kind]).eval()
    prompts, lengths = ids(3, 7), torch.tensor([7, 3, 5])
    with torch.inference_mode():
        cache = model.new_cache(3, 20)
        logits = model(prompts, cache=cache)[torch.arange(3), lengths - 1]
        cache.set_lengths(lengths)
        chosen = []
        for _ in range(10):
            chosen.append(logits.argmax(-1))
            logits = model(chosen[-1][:, None], cache=cache)[:, -1]
        for row, length in enumerate(lengths.tolist()):
            text = prompts[row, :length].tolist()
            for token in torch.stack(chosen)[:, row].tolist():
                assert int(model(torch.tensor([text]))[0, -1].argmax()) == token
                text.append(token)


def test_a_window_narrower_than_the_context_has_no_cache_and_no_packing(tmp_path: Path) -> None:
    folder = save(tmp_path / "mistral", "mistral", sliding_window=8)
    model = built(tmp_path, folder)
    assert model.new_cache is None
    assert callable(built(tmp_path, folder, context=8).new_cache)
    batch = {"inputs": ids(1, 9), "targets": ids(1, 9), "segments": ids(1, 9)}
    with pytest.raises(ValueError, match="packing = false"):
        model.loss(batch)


def test_from_scratch_draws_weights_by_the_seed(tmp_path: Path, folders: dict[str, Path]) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(built(tmp_path, folders["llama"], from_scratch=True).lm_head.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], reference(folders["llama"]).lm_head.weight)


def test_weights_are_fp32_unless_bf16_is_asked_for(tmp_path: Path, gpt2: Path) -> None:
    half = reference(gpt2).to(torch.bfloat16)
    half.save_pretrained(gpt2)
    for dtype, wanted in (("auto", torch.float32), ("bf16", torch.bfloat16)):
        assert built(tmp_path, gpt2, dtype=dtype).transformer.wte.weight.dtype == wanted


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_embedding_grows_to_the_tokenizer_by_its_mean(
    tmp_path: Path, folders: dict[str, Path], kind: str
) -> None:
    told: list[str] = []
    model = built(tmp_path, folders[kind], vocab_size=260, notice=told.append)
    assert len(told) == 1
    assert "260" in told[0]
    for part in (model.inner.get_input_embeddings(), model.inner.get_output_embeddings()):
        assert part.weight.shape[0] == 260
        mean = part.weight[:VOCABULARY].mean(0)
        torch.testing.assert_close(part.weight[VOCABULARY:], mean.expand(3, -1))
    assert model(ids(1, 4)).shape[-1] == 260
    with torch.device("meta"):
        outline = built(tmp_path, folders[kind], vocab_size=260)
    assert {name: item.shape for name, item in outline.state_dict().items()} == {
        name: item.shape for name, item in model.state_dict().items()
    }


def test_an_embedding_larger_than_the_tokenizer_stays(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    told: list[str] = []
    model = built(tmp_path, folders["gpt2"], vocab_size=200, notice=told.append)
    assert model.transformer.wte.weight.shape[0] == VOCABULARY
    assert not told


def test_frozen_parameters_are_not_trained(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = built(tmp_path, folders["gpt2"], freeze=["transformer.w?e.*", "*.h.0.*"])
    frozen = [name for name, item in model.named_parameters() if not item.requires_grad]
    assert frozen[:2] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert all(name.startswith("transformer.h.0.") for name in frozen[2:])
    assert len(frozen) == 14
    whole = built(tmp_path, folders["gpt2"])
    assert model.flops_per_token() < whole.flops_per_token()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("wte", r"'wte' matches no parameter.*transformer\.wte\.weight"),
        ("*", "every parameter is frozen"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(
    tmp_path: Path, folders: dict[str, Path], pattern: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, folders["gpt2"], freeze=[pattern])


def test_the_context_is_the_models_own_where_that_is_shorter(folders: dict[str, Path]) -> None:
    assert component(folders["gpt2"]).options.context == CONTEXT
    assert component("gpt2-small").options.context == 1024
    assert component("someone/something").options.context == 1024


def problems(directory: Path, folder: Path | str, **options: Any) -> str:
    plugin = component(folder, **options)
    found = plugin.forge_preflight(model_run(directory, folder))  # type: ignore[attr-defined]
    return "; ".join(map(str, found))


def test_a_context_beyond_the_models_is_refused(tmp_path: Path, gpt2: Path) -> None:
    assert not problems(tmp_path, gpt2)
    said = problems(tmp_path, gpt2, context=64)
    assert "model.hf-causal.context: a context of 64 is more than the model's maximum of 32" in said
    with pytest.raises(RecipeError, match="maximum of 32"):
        built(tmp_path, gpt2, context=64)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in problems(tmp_path, tmp_path / "empty")
    assert "there is no folder" in problems(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty" / "config.json").write_text("[1]")
    assert "is not a JSON object" in problems(tmp_path, tmp_path / "empty")


def test_a_hub_name_offline_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = problems(tmp_path, "gpt2-small")
    assert "config.json of 'openai-community/gpt2' at revision 'main'" in said
    assert "offline mode is on" in said
    assert "give the path of a folder" in said


@pytest.mark.parametrize(
    ("kind", "auto", "message"),
    [
        ("t5", "AutoModelForSeq2SeqLM", "is an encoder-decoder (use the model hf-seq2seq)"),
        ("roberta", "AutoModelForMaskedLM", "is an encoder (use the model hf-encoder)"),
        ("vit", "", "does not have as a causal language model"),
    ],
)
def test_another_architecture_is_refused(
    tmp_path: Path, gpt2: Path, kind: str, auto: str, message: str
) -> None:
    if auto:
        folder = save(tmp_path / kind, kind, auto=auto)
    else:
        folder = gpt2
        edit(gpt2 / "config.json", model_type=kind)
    assert message in problems(tmp_path, folder)


def test_code_that_comes_with_weights_is_not_run_unasked(tmp_path: Path, gpt2: Path) -> None:
    auto = {"AutoModelForCausalLM": "modeling.Model"}
    edit(gpt2 / "config.json", model_type="mine", auto_map=auto)
    said = problems(tmp_path, gpt2)
    assert "needs model code that comes with the weights" in said
    assert "trust_remote_code = true" in said


def test_code_that_comes_with_weights_runs_when_trusted(
    tmp_path: Path, gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("dynamic_module_utils", "utils.hub", "utils"):
        name = f"transformers.{place}.HF_MODULES_CACHE"
        monkeypatch.setattr(name, str(tmp_path / "modules"), raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (gpt2 / "modeling.py").write_text(
        "from transformers import GPT2LMHeadModel\n"
        "class Louder(GPT2LMHeadModel):\n"
        "    def forward(self, *arguments, **keywords):\n"
        "        out = super().forward(*arguments, **keywords)\n"
        "        out.logits = out.logits * 2\n"
        "        return out\n"
    )
    plain = built(tmp_path, gpt2).eval()
    edit(gpt2 / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Louder"})
    assert torch.equal(built(tmp_path, gpt2).eval()(ids(1, 5)), plain(ids(1, 5)))
    model = built(tmp_path, gpt2, trust_remote_code=True).eval()
    assert torch.equal(model(ids(1, 5)), plain(ids(1, 5)) * 2)
    loss, _ = model.loss({"inputs": ids(1, 5), "targets": ids(1, 5)})
    expected = functional.cross_entropy(model(ids(1, 5))[0], ids(1, 5)[0], reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_a_missing_shard_is_named(tmp_path: Path, gpt2: Path) -> None:
    model = reference(gpt2)
    (gpt2 / "model.safetensors").unlink()
    model.save_pretrained(gpt2, max_shard_size="40KB")
    built(tmp_path, gpt2)
    shards = sorted(gpt2.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(ForgeError, match=f"lacks 1 of {len(shards)} shards.*: {shards[1].name}"):
        built(tmp_path, gpt2)


def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, gpt2: Path) -> None:
    config = gpt2 / "config.json"
    edit(config, n_layer=3)
    with pytest.raises(ForgeError, match=r"missing: transformer\.h\.2\.attn"):
        built(tmp_path, gpt2)
    edit(config, n_layer=2, n_inner=96)
    with pytest.raises(ForgeError, match=r"of another shape: transformer\.h\.0\.mlp"):
        built(tmp_path, gpt2)


def test_damaged_or_absent_weights_are_refused(tmp_path: Path, gpt2: Path) -> None:
    weights = gpt2 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ForgeError, match=r"the weights in .* cannot be (read|loaded)"):
        built(tmp_path, gpt2)
    weights.unlink()
    with pytest.raises(ForgeError, match=r"has no weights: neither model\.safetensors"):
        built(tmp_path, gpt2)
    built(tmp_path, gpt2, from_scratch=True)


def test_a_checkpoint_needs_neither_folder_nor_hub(tmp_path: Path, gpt2: Path) -> None:
    model = built(tmp_path, gpt2, vocab_size=260)
    recorded = {**model.resolution, "architecture": model.architecture}
    shutil.rmtree(gpt2)
    again = built(
        tmp_path, "gpt2-small", vocab_size=260, context=CONTEXT,
        filled=True, resolved={"model": recorded},
    )  # fmt: skip
    assert again.state_dict().keys() == model.state_dict().keys()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(ids(1, 9)), model.eval()(ids(1, 9)))
