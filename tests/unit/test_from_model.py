"""The tokenizer from-model, and models on the hub: what is fetched, pinned and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hf_models import TEMPLATE, built, component, edit, model_run, reference, save, save_tokenizer

from llmforge.errors import DataError, ForgeError
from llmforge.interfaces import ChatTokenizer
from llmforge.plugins import load
from llmforge.testing import TokenizerContract, make_component, run_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save(tmp_path_factory.mktemp("hub") / "gpt2", "gpt2", vocab_size=300)
    return save_tokenizer(made)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def tokenizer_of(directory: Path, path: Path | str, **options: Any) -> Any:
    plugin = make_component(load("tokenizer", "from-model"), options, name="from-model")
    return plugin.forge_build_tokenizer(model_run(directory, path), None)  # type: ignore[attr-defined]


class TestFromModel(TokenizerContract):
    component = load("tokenizer", "from-model")

    @pytest.fixture
    def run(self, tmp_path: Path, folder: Path) -> Any:
        return model_run(tmp_path, folder)


def test_it_is_the_models_own_with_its_chat_template(tmp_path: Path, folder: Path) -> None:
    made, wanted = (
        tokenizer_of(tmp_path, folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    assert isinstance(made, ChatTokenizer)
    assert made.encode("the river of stone") == wanted("the river of stone")["input_ids"]
    assert (made.eos_token, made.eos_id) == ("<|endoftext|>", wanted.eos_token_id)
    assert made.chat_template == TEMPLATE
    assert set(made.special_tokens) == {"<|endoftext|>", "<|user|>", "<|assistant|>"}
    assert tokenizer_of(tmp_path, folder, end_of_text="<|user|>").eos_token == "<|user|>"


def test_a_template_may_be_in_the_configuration_one_of_several(
    tmp_path: Path, copied: Path
) -> None:
    (copied / "chat_template.jinja").unlink()
    assert tokenizer_of(tmp_path, copied).chat_template is None
    settings = copied / "tokenizer_config.json"
    edit(settings, chat_template="{{ messages }}")
    assert tokenizer_of(tmp_path, copied).chat_template == "{{ messages }}"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    edit(settings, chat_template=named)
    assert tokenizer_of(tmp_path, copied).chat_template == "d"


def test_the_end_of_text_may_be_named_by_the_model_only(tmp_path: Path, copied: Path) -> None:
    edit(copied / "tokenizer_config.json", eos_token=None)
    assert tokenizer_of(tmp_path, copied).eos_token is None
    edit(copied / "config.json", eos_token_id=0)
    assert tokenizer_of(tmp_path, copied).eos_token == "<|endoftext|>"


def test_files_of_an_older_format_give_the_same_tokens(tmp_path: Path, copied: Path) -> None:
    wanted = tokenizer_of(tmp_path, copied)
    inner = tokenizers.Tokenizer.from_file(str(copied / "tokenizer.json"))
    content = json.loads(inner.to_str())["model"]
    (copied / "vocab.json").write_text(json.dumps(inner.get_vocab()))
    merges = [" ".join(pair) for pair in content["merges"]]
    (copied / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (copied / "tokenizer.json").unlink()
    (copied / "chat_template.jinja").unlink()
    (copied / "tokenizer_config.json").write_text("{}")
    made = tokenizer_of(tmp_path, copied)
    text = "the river, the garden;  stone\n42"
    assert made.encode(text) == wanted.encode(text)
    assert made.decode(made.encode(text)) == text
    assert made.eos_token == "<|endoftext|>"


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"has no tokenizer: neither tokenizer\.json nor vocab"):
        tokenizer_of(tmp_path, copied)


def test_a_model_that_is_not_pre_trained_has_none(tmp_path: Path) -> None:
    plugin = make_component(load("tokenizer", "from-model"), name="from-model")
    run = run_context(tmp_path, config={"model": {"name": "transformer", "transformer": {}}})
    (problem,) = plugin.forge_preflight(run)  # type: ignore[attr-defined]
    assert "the model 'transformer' has no path" in problem.message


class Hub:
    """A stand-in for the hub: repositories by name, each at one commit."""

    def __init__(self) -> None:
        hub = self
        self.repositories: dict[str, tuple[Path, str]] = {}
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                hub.asked.append(self.path)
                repository, _, rest = self.path.strip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                folder, commit = hub.repositories.get(repository, (Path("/nonexistent"), ""))
                content = None
                if revision in ("main", commit) and (folder / name).is_file():
                    content = (folder / name).read_bytes()
                self.send_response(404 if content is None else 200)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound" if commit else "RepoNotFound")
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{name}-{commit}"')
                self.send_header("X-Repo-Commit", commit)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                del arguments

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, the environment and the imported library leading to it with an empty cache."""
    made = Hub()
    cache = str(tmp_path / "hf" / "hub")
    for name, value in (
        ("HF_ENDPOINT", made.url),
        ("HF_HOME", str(tmp_path / "hf")),
        ("HF_HUB_DISABLE_XET", "1"),
        ("HF_HUB_DISABLE_SYMLINKS_WARNING", "1"),
    ):
        monkeypatch.setenv(name, value)
    for name, value in (("ENDPOINT", made.url), ("HF_HUB_CACHE", cache)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield made
    made.server.shutdown()


def test_a_zoo_name_is_fetched_from_the_hub_and_its_commit_kept(
    tmp_path: Path, folder: Path, hub: Hub
) -> None:
    hub.repositories["openai-community/gpt2"] = (folder, "c" * 40)
    options: dict[str, Any] = {"context": 32, "vocab_size": 300, "offline": False}
    model = built(tmp_path, "gpt2-small", **options)
    assert model.resolution == {"repository": "openai-community/gpt2", "commit": "c" * 40}
    moved = save(tmp_path / "moved", "gpt2", vocab_size=300, seed=8)
    hub.repositories["openai-community/gpt2"] = (moved, "d" * 40)
    hub.asked.clear()
    again = built(tmp_path, "gpt2-small", resolved={"model": model.resolution}, **options)
    assert not hub.asked  # a commit never changes
    assert again.resolution == model.resolution
    assert again.transformer.wte.weight.equal(model.transformer.wte.weight)
    offline = {**options, "offline": True}
    assert built(tmp_path, "gpt2-small", **offline).resolution == model.resolution


def test_the_transformer_starts_from_the_hub_with_the_tokenizer_there(
    tmp_path: Path, hub: Hub
) -> None:
    base = save_tokenizer(save(tmp_path / "base", "llama", vocab_size=283))
    hub.repositories["someone/llama"] = (base, "c" * 40)
    options = {"init_from": "someone/llama", "context": 32}
    plugin: Any = make_component(load("model", "transformer"), options, name="transformer")
    tables = {
        "model": {"name": "transformer", "transformer": options},
        "tokenizer": {"name": "from-model"},
    }
    made_tokenizer: Any = make_component(load("tokenizer", "from-model"), name="from-model")
    run = model_run(tmp_path, base, config=tables, offline=False)
    assert plugin.forge_preflight(run) == []
    tokenizer = made_tokenizer.forge_build_tokenizer(run, None)
    model = plugin.forge_build_model(run, tokenizer).eval()
    assert model.resolution == {"repository": "someone/llama", "commit": "c" * 40}
    ids = torch.tensor([tokenizer.encode("the river and the stone")])
    with torch.inference_mode():
        expected = reference(base).eval()(ids).logits
        torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-5)
    hub.asked.clear()
    again = model_run(
        tmp_path, base, config=tables, offline=False, resolved={"model": model.resolution}
    )
    plugin.forge_build_model(again, tokenizer)
    assert not hub.asked


def test_what_the_hub_does_not_have_is_said(tmp_path: Path, hub: Hub) -> None:
    plugin = component("someone/nothing")
    (problem,) = plugin.forge_preflight(  # type: ignore[attr-defined]
        model_run(tmp_path, "someone/nothing", offline=False)
    )
    assert "there is no config.json in 'someone/nothing' at revision 'main'" in str(problem)


def test_a_word_that_is_nowhere_names_the_places_and_the_nearest_folder(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "my-model", "llama", vocab_size=283)
    monkeypatch.chdir(tmp_path)
    plugin: Any = component("my-modle")
    (problem,) = plugin.forge_preflight(model_run(tmp_path, "my-modle", offline=False))
    assert f"there is no folder {tmp_path}/my-modle" in problem.message
    assert "the hub has no such model" in problem.message
    assert "did you mean 'my-model'?" in problem.remedy
    plugin = component(str(tmp_path / "my-modle"))
    (problem,) = plugin.forge_preflight(model_run(tmp_path, "x", offline=False))
    assert f"did you mean '{tmp_path}/my-model'?" in problem.remedy


def test_a_hub_that_is_down_is_one_message(tmp_path: Path, hub: Hub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(ForgeError, match="the hub cannot be asked") as caught:
        built(tmp_path, "someone/model", offline=False)
    assert "HF_ENDPOINT" in caught.value.remedy
