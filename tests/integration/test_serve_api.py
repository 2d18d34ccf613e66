"""``forge serve`` by OpenAI's own client: every answer is that of ``forge generate``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_process import ServeProcess, make_chat_run, opened

from llmforge.generation import LoadedModel, generate_texts

PROMPT = "The history of the river"
BOTH = ("completions", "chat/completions")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    make_chat_run(base)
    return base


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServeProcess]:
    with ServeProcess(root, "talk", "--max-batch", "8") as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServeProcess) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def loaded(root: Path) -> LoadedModel:
    return opened(root, "talk")


def texts(loaded: LoadedModel, *prompts: str, **options: Any) -> list[str]:
    options = {"max_new_tokens": 16, "seed": 5, "chat": False, **options}
    return [item.text for item in generate_texts(loaded, prompts, **options)]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "talk"
    assert client.models.retrieve("talk").owned_by == "llmforge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 1.3, "top_p": 0.7},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
    ],
)
def test_a_completion_is_the_text_of_generate(
    client: openai.OpenAI, loaded: LoadedModel, options: dict[str, Any]
) -> None:
    answer = client.completions.create(
        model="talk", prompt=PROMPT, seed=5, max_tokens=16, **options
    )
    assert answer.choices[0].text == texts(loaded, PROMPT, **options)[0]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(PROMPT)
    assert answer.usage.completion_tokens <= 16


def test_the_samplers_own_options_are_further_parameters(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    own = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2}
    answer = client.completions.create(
        model="talk", prompt=PROMPT, seed=5, max_tokens=16, extra_body=own
    )
    assert answer.choices[0].text == texts(loaded, PROMPT, **own)[0]


def test_a_chat_is_the_answer_of_generate(client: openai.OpenAI, loaded: LoadedModel) -> None:
    answer = client.chat.completions.create(
        model="talk",
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Say it."}]},
        ],
        seed=5,
        max_completion_tokens=16,
    )
    expected = texts(loaded, "Say it.", chat=True, system="Be kind.")
    assert answer.choices[0].message.content == expected[0]
    assert answer.choices[0].message.role == "assistant"


def test_several_choices_are_the_samples_of_generate(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    answer = client.completions.create(
        model="talk", prompt=[PROMPT, "a", PROMPT], n=2, seed=5, max_tokens=16
    )
    expected = texts(loaded, PROMPT, "a", PROMPT, samples=2)
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == list(range(6))


def test_a_prompt_of_tokens_is_that_of_its_text(client: openai.OpenAI, loaded: LoadedModel) -> None:
    ids = loaded.tokenizer.encode(PROMPT)
    answer = client.completions.create(model="talk", prompt=ids, seed=5, max_tokens=16)
    assert answer.choices[0].text == texts(loaded, PROMPT)[0]


def test_streams_have_the_same_text_and_the_usage_at_their_end(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    pieces = ["", ""]
    finishes: list[str | None] = [None, None]
    usage = None
    for event in client.completions.create(
        model="talk",
        prompt=PROMPT,
        n=2,
        seed=5,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = event.usage
        for choice in event.choices:
            pieces[choice.index] += choice.text
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert pieces == texts(loaded, PROMPT, samples=2)
    assert None not in finishes
    assert usage is not None
    assert usage.prompt_tokens == len(PROMPT)


def test_a_chat_streams_who_speaks_and_then_what(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    events = list(
        client.chat.completions.create(
            model="talk",
            messages=[{"role": "user", "content": "Say it."}],
            seed=5,
            max_tokens=16,
            stream=True,
        )
    )
    assert events[0].choices[0].delta.role == "assistant"
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == texts(loaded, "Say it.", chat=True)[0]
    assert events[-1].choices[0].finish_reason in ("stop", "length")


def test_a_stop_text_ends_it_and_is_no_part_of_it(
    client: openai.OpenAI, loaded: LoadedModel
) -> None:
    whole = texts(loaded, PROMPT, temperature=0.0)[0]
    stop = whole[5:7]
    answer = client.completions.create(
        model="talk", prompt=PROMPT, seed=5, max_tokens=16, temperature=0, stop=[stop]
    )
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_probabilities_come_in_both_forms(client: openai.OpenAI) -> None:
    plain = client.completions.create(
        model="talk", prompt=PROMPT, temperature=0, max_tokens=4, logprobs=2, echo=True
    ).choices[0]
    assert plain.text.startswith(PROMPT)
    assert plain.logprobs is not None
    assert plain.logprobs.token_logprobs is not None
    assert plain.logprobs.top_logprobs is not None
    best = [max(item.values()) for item in plain.logprobs.top_logprobs]
    assert plain.logprobs.token_logprobs == best
    assert all(value <= 0 for value in best)
    chat = client.chat.completions.create(
        model="talk",
        messages=[{"role": "user", "content": "Say it."}],
        temperature=0,
        max_tokens=4,
        logprobs=True,
        top_logprobs=2,
    ).choices[0]
    assert chat.logprobs is not None
    assert chat.logprobs.content
    for item in chat.logprobs.content:
        assert item.logprob == item.top_logprobs[0].logprob
        assert bytes(item.bytes or b"").decode() == item.token


def test_a_bias_can_force_a_token(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="talk", prompt=PROMPT, max_tokens=5, logit_bias={str(ord("A")): 100}
    )
    assert answer.choices[0].text == "AAAAA"


def test_shared_beginnings_are_computed_once(client: openai.OpenAI) -> None:
    system = {"role": "system", "content": "You are the keeper of a lighthouse, and you know it."}
    reused = []
    for question in ("Who are you?", "Where do you live?"):
        answer = client.chat.completions.create(
            model="talk",
            messages=[system, {"role": "user", "content": question}],  # type: ignore[list-item]
            max_tokens=2,
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        reused.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert reused[1] > len(system["content"])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("completions", {"prompt": "x", "temperature": 3}, "temperature"),
    ("completions", {"prompt": "x", "repetition_penalty": 5e-324}, "repetition_penalty"),
    ("completions", {"prompt": "x", "n": 9}, "n"),
    ("completions", {"prompt": "x", "n": 0}, "n"),
    ("completions", {"prompt": "x", "best_of": 3}, "best_of"),
    ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": [300]}, "prompt"),
    ("completions", {"prompt": "\ud800"}, "prompt"),
    ("completions", {"prompt": "x", "stop": list("abcde")}, "stop"),
    ("completions", {"prompt": "x", "stop": [""]}, "stop"),
    ("completions", {"prompt": "x", "stop": [5]}, "stop[0]"),
    ("completions", {"prompt": "x", "logprobs": True}, "logprobs"),
    ("completions", {"prompt": "x", "stream": "yes"}, "stream"),
    ("completions", {"prompt": "x", "max_tokens": "5"}, "max_tokens"),
    ("completions", {"prompt": [1, "a"]}, "prompt[1]"),
    ("completions", {"prompt": [[1], ["a"]]}, "prompt[1][0]"),
    ("completions", {"prompt": "x", "logit_bias": {"5": "x"}}, "logit_bias.5"),
    ("completions", {"prompt": "x", "logit_bias": {"999": 1}}, "logit_bias"),
    ("completions", {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
    ("completions", {"prompt": "x" * 300}, "max_tokens"),
    ("completions", {"prompt": "x", "max_tokens": 256}, "max_tokens"),
    ("completions", {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
    ("completions", {}, "prompt"),
    ("chat/completions", {"messages": []}, "messages"),
    ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ("chat/completions", {"tools": [{"type": "function"}]}, "tools"),
    ("chat/completions", {"response_format": {"type": "json_schema"}}, "response_format.type"),
    ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
]


@pytest.mark.parametrize(("path", "body", "param"), WRONG)
def test_what_is_wrong_is_named(
    server: ServeProcess, path: str, body: dict[str, Any], param: str
) -> None:
    if path == "chat/completions":
        body = {"messages": [{"role": "user", "content": "x"}], **body}
    text = json.dumps({"model": "talk", **body})
    response = httpx.post(
        f"{server.url}/v1/{path}", content=text, headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"]


SENTENCES: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "user", "content": 5}]},
        "'messages[0].content' must be a text or a list of parts of the type 'text'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "'messages[0].content[0].type' must be 'text'",
    ),
    ({"messages": [{"role": "user"}]}, "'messages[0].content' is missing"),
    ({"messages": "x"}, "'messages' must be a list"),
    ({"messages": []}, "'messages' must not be empty"),
    ({"stream": "yes"}, "'stream' must be true or false"),
    ({"temperature": 2.5}, "'temperature' must be at most 2"),
    ({"tools": []}, "'tools' is not supported here"),
]


@pytest.mark.parametrize(("body", "sentence"), SENTENCES)
def test_what_is_wrong_is_one_sentence_in_the_words_of_the_api(
    server: ServeProcess, body: dict[str, Any], sentence: str
) -> None:
    asked = {"model": "talk", "messages": [{"role": "user", "content": "x"}], **body}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert response.json()["error"]["message"] == sentence


def test_null_is_not_given(server: ServeProcess) -> None:
    body = {"model": "talk", "prompt": "x", "max_tokens": 1, "tools": None, "temperature": None}
    assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200


UNREADABLE = [
    (b"", "invalid_json", "must be a JSON object"),
    (b"{", "invalid_json", "not valid JSON at character 2"),
    (b"[]", "invalid_json", "must be a JSON object"),
    (b"nothing", "invalid_json", "not valid JSON at character 1"),
    (b"null", "invalid_json", "must be a JSON object"),
    (b'{"model": "\xff"}', "invalid_encoding", "not UTF-8"),
    (b"[" * 50_000, "invalid_json", "nested too deeply"),
]


@pytest.mark.parametrize(("body", "code", "words"), UNREADABLE)
@pytest.mark.parametrize("path", BOTH)
def test_a_body_that_is_no_object_is_refused(
    server: ServeProcess, path: str, body: bytes, code: str, words: str
) -> None:
    response = httpx.post(
        f"{server.url}/v1/{path}", content=body, headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert words in error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_sent_as_json_is_refused(server: ServeProcess, kind: str | None) -> None:
    body = json.dumps({"model": "talk", "prompt": "x"}).encode()
    headers = {"Content-Type": kind} if kind else {}
    response = httpx.post(f"{server.url}/v1/completions", content=body, headers=headers)
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["message"]


def test_other_paths_and_methods_have_the_same_errors(server: ServeProcess) -> None:
    for method, path, status in (("GET", "/v1/none", 404), ("GET", "/v1/completions", 405)):
        response = httpx.request(method, server.url + path)
        assert response.status_code == status
        assert response.json()["error"]["message"]


def test_metrics_count_what_was_done(server: ServeProcess, client: openai.OpenAI) -> None:
    before = server.metrics()
    client.completions.create(model="talk", prompt="abc", max_tokens=3, temperature=0)
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("forge_prompt_tokens_total") == 3
    assert 1 <= grown("forge_tokens_generated_total") <= 3
    assert grown("forge_time_to_first_token_seconds_count") == 1
    assert after["forge_checkpoint_step"] == 1
    assert after["forge_texts_unfinished"] == 0


def test_the_page_asks_nobody_else(server: ServeProcess) -> None:
    response = httpx.get(server.url + "/")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in response.text
    assert "https://" not in response.text


def test_the_python_of_the_how_to_page_runs(server: ServeProcess) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/serve-and-chat.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", server.url).replace("my-run", "talk")
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["answer"].choices[0].message.content
