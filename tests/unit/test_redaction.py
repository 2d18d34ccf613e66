"""Secrets in text: by the environment's values, by their form, and what is no secret."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from llmforge.redaction import (
    RedactingFormatter,
    RedactingStream,
    redact,
    redact_arguments,
    redact_values,
)

SECRET = "wJalr/canary+7f3e"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", SECRET)


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "HF_TOKEN",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_CONNECTION_STRING",
    ],
)
def test_the_values_of_secret_variables_are_hidden(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hush-hush-42")
    assert redact("denied: hush-hush-42!") == "denied: ***!"


def test_the_password_within_a_variable_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush-hush-42@host/x")
    assert redact("no access for me with hush-hush-42") == "no access for me with ***"


def test_a_secret_is_found_as_a_url_spells_it() -> None:
    assert redact("/login/wJalr%2Fcanary%2B7f3e/") == "/login/***/"


def test_a_longer_secret_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_PASSWORD", f"{SECRET}-and-more")
    assert redact(f"<{SECRET}-and-more>") == "<***>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:abc@host/x.", "at https://***@host/x."),
        ("at s3://bucket/x?a=1&X-Amz-Signature=abc", "at s3://bucket/x?a=1&X-Amz-Signature=***"),
        ("{'Authorization': 'Basic YTpi'}", "{'Authorization': 'Basic ***'}"),
        ("with AKIA0123456789ABCDEF", "with ***"),
        ("with hf_" + "a" * 34, "with ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\n", "***\n"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_ordinary_text_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHORT_PASSWORD", "train")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    text = f"train at http://host:80/a@b?epoch=1, {tmp_path}: Basic knowledge of tokens, step 7"
    assert redact(text) == text


def test_nested_values_are_redacted_in_every_depth() -> None:
    assert redact_values({"a": [1, {"b": f"x {SECRET}"}]}) == {"a": [1, {"b": "x ***"}]}


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("tracker.wandb.api_key=abc", "tracker.wandb.api_key=***"),
        ("--set=tracker.wandb.api_key=abc", "--set=tracker.wandb.api_key=***"),
        ("--api-key=abc", "--api-key=***"),
        ("storage.url=s3://me:abc@host/x", "storage.url=s3://***@host/x"),
        (f"run.notes={SECRET}", "run.notes=***"),
        ("optimizer.adamw.lr=1e-3", "optimizer.adamw.lr=1e-3"),
        ("generation.sampler.max_new_tokens=8", "generation.sampler.max_new_tokens=8"),
        ("tokenizer.name=bytes", "tokenizer.name=bytes"),
    ],
)
def test_secrets_of_a_command_line_are_not_kept(argument: str, shown: str) -> None:
    assert redact_arguments(["forge", "train", argument]) == ["forge", "train", shown]


def test_the_argument_after_a_secret_flag_is_hidden_and_only_that_one() -> None:
    assert redact_arguments(["--token", "abc", "--seed", "7"]) == ["--token", "***", "--seed", "7"]
    assert redact_arguments(["--token", "--token", "x"]) == ["--token", "***", "x"]


def test_a_logged_traceback_is_without_secrets() -> None:
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        failed = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "%s", (SECRET,), failed)
    text = RedactingFormatter("%(message)s").format(record)
    assert text.startswith("***\nTraceback")
    assert text.endswith("ValueError: refused ***")


def test_a_stream_hides_a_secret_that_comes_in_pieces() -> None:
    written = io.StringIO()
    stream = RedactingStream(written)
    for piece in ("one\ntwo ", SECRET[:5], SECRET[5:], "\nthree"):
        print(piece, end="", file=stream)
    stream.flush()
    assert written.getvalue() == "one\ntwo ***\n"
    print(file=stream)
    assert written.getvalue() == "one\ntwo ***\nthree\n"
