"""Every built-in component keeps the contract of its kind."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_stand_in import Hub, running_hub

from llmforge import Component
from llmforge.installed import DISTRIBUTION
from llmforge.interfaces import TextExample
from llmforge.plugins import Entry, listed, load
from llmforge.testing import (
    AdapterContract,
    BackendContract,
    DataContract,
    DeployContract,
    GenerationContract,
    MetricContract,
    ModelContract,
    ObjectiveContract,
    OptimizerContract,
    ScheduleContract,
    StorageContract,
    SweeperContract,
    TokenDataContract,
    TokenizerContract,
    TrackerContract,
    make_component,
)
from llmforge.testing.contracts.base import Contract

OPTIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("model", "transformer"): {
        "layers": 2,
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "context": 16,
    },
    ("adapter", "lora"): {"r": 4},
    ("tokenizer", "bpe"): {"vocab_size": 300},
    ("optimizer", "adamw"): {"lr": 0.02},
    ("optimizer", "muon"): {"lr": 0.02, "adamw_lr": 0.02},
    ("schedule", "cosine"): {"warmup": 0.1},
    ("schedule", "linear"): {"warmup_steps": 5},
    ("schedule", "wsd"): {"warmup": 0.1},
    ("generation", "sampler"): {"max_new_tokens": 12},
    ("tracker", "wandb"): {"mode": "offline", "log_checkpoints": "all"},
}
"""What the contracts are checked with where the defaults are too large."""

BUILT_IN: tuple[Entry, ...] = tuple(
    entry for entry in listed() if entry.distribution == DISTRIBUTION and entry.kind != "command"
)


def named(kind: str, *, but: tuple[str, ...] = ()) -> Any:
    """Run a contract for every built-in component of ``kind``, ``but`` some left out."""
    names = [item.name for item in BUILT_IN if item.kind == kind and item.name not in but]
    return pytest.mark.parametrize("name", names)


class BuiltIn(Contract):
    """Takes the component from its entry point instead of a class attribute."""

    kind: str

    @pytest.fixture
    def plugin(self, name: str, tmp_path: Path) -> Component:
        """The built-in component ``name``."""
        return make_component(load(self.kind, name), self.built_in_options(name, tmp_path))

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        """Return the options of the component ``name``; ``directory`` takes files they name."""
        del directory
        return OPTIONS.get((self.kind, name), {})


# those of Hugging Face need a folder: tests/unit/test_hf_causal.py has the contract over one
@named("model", but=("hf-causal", "hf-encoder", "hf-seq2seq"))
class TestModels(BuiltIn, ModelContract):
    kind = "model"


@named("adapter")
class TestAdapters(BuiltIn, AdapterContract):
    kind = "adapter"


@named("tokenizer", but=("ids", "from-model"))  # tests/unit/test_from_model.py
class TestTokenizers(BuiltIn, TokenizerContract):
    kind = "tokenizer"

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        if name != "hf":
            return super().built_in_options(name, directory)
        return {"source": str(tokenizer_file(directory / "gpt-like"))}


@named("data", but=("tokens", "instruct", "labelled", "preference"))
class TestData(BuiltIn, DataContract):
    kind = "data"

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        del name
        return self.make_options(directory)

    def write(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        for split in ("train", "valid"):
            text = "\n".join(["", " = A harbour = ", "", *sentences, ""])
            (directory / f"{split}.txt").write_text(text, encoding="utf-8")
        return {"path": str(directory)}


@named("objective", but=("classify",))
class TestObjectives(BuiltIn, ObjectiveContract):
    kind = "objective"


@named("objective", but=("next_token", "seq2seq", "dpo"))
class TestObjectivesOfTexts(BuiltIn, ObjectiveContract):
    kind = "objective"
    examples = tuple(
        TextExample(text=f"The harbour is {word}.", pair=pair, label=label, source="reviews.csv:2")
        for word, pair, label in (("full", None, 1), ("frozen over", "Is it?", 0))
    )


@pytest.mark.parametrize("name", ["instruct"])
class TestInstructions(BuiltIn, DataContract):
    kind = "data"

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        del name
        return self.make_options(directory)

    def write(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        for split in ("train", "valid"):
            rows = [json.dumps({"prompt": "Say it.", "completion": said}) for said in sentences]
            (directory / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        found = {"train": "train.jsonl", "validation": "valid.jsonl"}
        return {split: str(directory / file) for split, file in found.items()}


@pytest.mark.parametrize("name", ["preference"])
class TestPreferences(BuiltIn, DataContract):
    kind = "data"

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        del name
        return self.make_options(directory)

    def write(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        for split in ("train", "valid"):
            pairs = [{"prompt": "Say it.", "chosen": said, "rejected": "?"} for said in sentences]
            text = "\n".join(map(json.dumps, pairs))
            (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
        found = {"train": "train.jsonl", "validation": "valid.jsonl"}
        return {split: str(directory / file) for split, file in found.items()}


@pytest.mark.parametrize("name", ["tokens"])
class TestTokenData(BuiltIn, TokenDataContract):
    kind = "data"

    def built_in_options(self, name: str, directory: Path) -> Mapping[str, Any]:
        del name
        return self.make_options(directory)

    def write(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        for index, sentence in enumerate(sentences):
            ids = np.frombuffer(sentence.encode(), np.uint8).astype(np.uint16)
            np.save(directory / f"{index}.npy", ids)
        np.save(directory / "validation.npy", np.arange(9))
        return {"path": str(directory), "validation": str(directory / "val*.npy")}


@named("metric")
class TestMetrics(BuiltIn, MetricContract):
    kind = "metric"


@named("optimizer")
class TestOptimizers(BuiltIn, OptimizerContract):
    kind = "optimizer"


@named("schedule")
class TestSchedules(BuiltIn, ScheduleContract):
    kind = "schedule"


@named("backend", but=("fsdp", "deepspeed"))
class TestBackends(BuiltIn, BackendContract):
    kind = "backend"


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
class TestShardingBackends(BuiltIn, BackendContract):
    """On one rank; tests/integration has them on several."""

    kind = "backend"
    # no rank has whole gradients, so they offer none to look at
    test_its_gradients_are_those_of_what_was_accumulated = None


@named("tracker")
class TestTrackers(BuiltIn, TrackerContract):
    kind = "tracker"


@named("generation")
class TestGenerators(BuiltIn, GenerationContract):
    kind = "generation"


class Places(BuiltIn, StorageContract):
    """A storage that needs no server; tests/integration has the others."""

    kind = "storage"

    @pytest.fixture
    def url(self, name: str, tmp_path: Path) -> str:
        return self.make_url(tmp_path) if name == "local" else f"memory://{secrets.token_hex(8)}"

    def make_url(self, directory: Path) -> str:
        return f"file://{directory}/place"


@pytest.mark.parametrize("name", ["local", "memory"])
class TestStorages(Places):
    pass


@pytest.mark.parametrize("name", ["fsspec"])
class TestAnyFilesystem(Places):
    # fsspec's own upload writes in place; only file systems with code of their own do better
    test_an_upload_that_is_stopped_leaves_what_was_there = None


@named("sweep")
class TestSweepers(BuiltIn, SweeperContract):
    kind = "sweep"


@pytest.mark.parametrize("name", ["hf"])
class TestDeployments(BuiltIn, DeployContract):
    """To a stand-in of the hub; tests/integration has the registry of an MLflow server."""

    kind = "deploy"
    hub: Hub

    @pytest.fixture(autouse=True)
    def _hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with running_hub() as self.hub:
            for variable, value in self.hub.environment().items():
                monkeypatch.setenv(variable, value)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
            yield

    def make_address(self, directory: Path) -> str:
        del directory
        return "hf://acme/tiny"

    def published(self, address: str) -> Mapping[str, bytes] | None:
        del address
        repository = self.hub.repositories.get("models/acme/tiny")
        if repository is None:
            return None
        files = repository.commits[-1][1]
        return {name: files[name] for name in files.keys() - {".gitattributes", "llmforge.json"}}


def test_every_built_in_kind_has_a_contract_here() -> None:
    covered = {item.kind for item in globals().values() if _is_contract(item)}
    assert {entry.kind for entry in BUILT_IN} <= covered


def _is_contract(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, BuiltIn) and item is not BuiltIn


def tokenizer_file(directory: Path) -> Path:
    """Write a byte-level tokenizer of the Hugging Face format; return its file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        ["the river and the sea"],
        trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False),
    )
    directory.mkdir()
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    return path
