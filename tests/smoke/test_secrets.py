"""Secrets in every place they may come from, and a search of everything a run leaves for them."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping

import pytest
from forge_process import Workplace

from llmforge.remote import open_storage

CANARY = "c4n4ryB1rd"
"""Part of every secret here."""

_VARIABLES = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
)
_IN_DOTENV = ("GITHUB_TOKEN", "AWS_ACCESS_KEY_ID", "FORGE_SERVICE_PASSWORD")
NOWHERE = f"http://user:{CANARY}4444444@127.0.0.1:9"
SHORT = {"train.max_steps": "8", "checkpoint.every": "4", "eval.every": "4"}


def secret(name: str) -> str:
    """Return the secret for a place, told apart from all others."""
    return f"{CANARY}{name.replace('_', '').lower()}{'4' * 40}"[:60]


@pytest.fixture
def place(workplace: Workplace, faults: str, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A place with a secret in every variable, a ``.env`` with more, and a home of its own."""
    home = workplace.path / "home"
    home.mkdir()
    for name in _IN_DOTENV:
        monkeypatch.delenv(name, raising=False)
    text = "".join(f"{name}={secret(name)}\n" for name in _IN_DOTENV)
    (workplace.path / ".env").write_text(text)
    variables = {name: secret(name) for name in _VARIABLES}
    own = {"PYTHONPATH": faults, "HOME": str(home), "FAULT_BLAB": " ".join(variables)}
    return dataclasses.replace(workplace, environment={**variables, **own}, settings=SHORT)


def with_settings(place: Workplace, *trackers: str, **settings: str) -> Workplace:
    """Return the place with trackers and further keys (``__`` for a dot)."""
    own = {key.replace("__", "."): text for key, text in settings.items()}
    names = {"tracker.names": json.dumps(trackers), "tracker.close_timeout": "3"}
    return dataclasses.replace(place, settings={**place.settings, **names, **own})


def with_variables(place: Workplace, **variables: str) -> Workplace:
    """Return the place with further variables in its environment."""
    return dataclasses.replace(place, environment={**place.environment, **variables})


def forms(text: str) -> Iterator[bytes]:
    """Yield the bytes in which ``text`` is looked for: plain and in Base64."""
    yield text.encode()
    yield text.encode("utf-16-le")
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + text.encode())
        yield encoded[(shift * 8 + 5) // 6 : -4]


def leaks(place: Workplace, more: Mapping[str, bytes]) -> list[str]:
    """Return where the canary is, in all that is in the place and in ``more``."""
    found = {
        str(path.relative_to(place.path)): path.read_bytes()
        for path in place.path.rglob("*")
        if path.is_file() and path.name not in (".env", "recipe-with-secret.toml")
    }
    wanted = re.compile(b"|".join(re.escape(form) for form in forms(CANARY)))
    return [
        f"{name}: {content[max(0, at.start() - 60) : at.end() + 60]!r}"
        for name, content in {**found, **more}.items()
        if (at := wanted.search(content))
    ]


def stored(url: str) -> dict[str, bytes]:
    """Return every object in storage by its name."""
    place = open_storage(url)
    return {f"{url}/{name}": place.read(name) for name in place.names("")}


def test_the_search_finds_a_secret_in_every_form(workplace: Workplace) -> None:
    for number in range(6):
        login = base64.b64encode(b"a" * number + secret("x").encode())
        assert leaks(workplace, {"header": login})
    (workplace.path / "cache" / "x").write_bytes(b"\0" + secret("x").encode("utf-16-le"))
    assert len(leaks(workplace, {})) == 1


def test_a_run_with_trackers_and_storage_keeps_no_secret(place: Workplace, s3_url: str) -> None:
    full = with_settings(
        place,
        *("tensorboard", "csv", "mlflow", "wandb"),
        tracker__close_timeout="60",
        tracker__wandb__mode="offline",
        tracker__mlflow__log_checkpoints="last",
        storage__url=s3_url,
    )
    output = full.train().output
    for arguments in (("show", "tiny", "--json"), ("status", "tiny"), ("list", "--json")):
        output += full.forge_here("runs", *arguments)

    objects = stored(s3_url)
    assert any(name.endswith("COMMIT.json") for name in objects)
    assert {path.name for path in full.run.trackers.iterdir()} > {"csv", "mlflow", "wandb"}
    assert (full.run.root / "mlflow.db").exists()
    assert "tracker wandb: " in output
    assert "still in the journal" not in output
    assert leaks(full, {**objects, "output": output.encode()}) == []


@pytest.mark.slow
def test_services_that_are_away_and_trackers_that_blab_tell_no_secret(place: Workplace) -> None:
    full = with_settings(
        with_variables(place, MLFLOW_TRACKING_URI=NOWHERE),
        *("mlflow", "blabber"),
        callback__names='["blabbing"]',
    )
    output = full.start("-v").finish(expect=0).output

    assert "notice: tracker blabber failed: forge_run_start: ConnectionError: 401" in output
    assert "blabbing failed in forge_metrics: ConnectionError: 401 for https://***@" in output
    assert "notice: preflight: 401" in output
    assert "the MLflow server at http://127.0.0.1:9 does not answer" in output
    assert full.record["notices"]
    assert (full.run.trackers / "courier.log").read_text().count("***") >= 4
    assert leaks(full, {"output": output.encode()}) == []


def test_storage_that_is_away_tells_no_secret(place: Workplace, aws: pytest.MonkeyPatch) -> None:
    remote = with_settings(
        with_variables(place, AWS_ENDPOINT_URL=NOWHERE), storage__url="s3://bucket/runs"
    )
    output = remote.train_here(expect=1)

    assert "forge: listing tiny failed in s3://bucket/runs: " in output
    assert leaks(remote, {"output": output.encode()}) == []


def test_a_run_that_fails_and_its_traceback_tell_no_secret(place: Workplace) -> None:
    blabbing = with_variables(
        with_settings(place, "csv", callback__names='["blabbing"]'), FAULT_BLAB_AT="4"
    )
    process = blabbing.forge("--debug", *("train", "recipe.toml"), *blabbing._settings())
    output = process.finish(expect=1).output

    assert "Traceback" in output
    assert "RuntimeError: 401 for https://***@host/?token=***" in output
    assert "RuntimeError('401 for https://***@host" in blabbing.record["exit_reason"]
    assert '"forge_run_error"' in blabbing.run.journal.read_text()
    assert leaks(blabbing, {"output": output.encode()}) == []


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("tracker.mlflow.tracking_uri=https://me:{}@host", "as MLFLOW_TRACKING_USERNAME and"),
        ("storage.url=s3://me:{}@host/bucket", "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("data.text.train=https://me:{}@host/a.txt", "environment or .env"),
        ("data.text.train=https://host/a.txt?token={}", "environment or .env"),
        ("tracker.wandb.api_key={}", "in the environment or .env, as WANDB_API_KEY"),
        ("run.notes=the key is {}", "environment or .env"),
    ],
)
def test_a_recipe_with_a_secret_is_refused_in_one_message(
    place: Workplace, setting: str, where: str
) -> None:
    setting = setting.format(secret("WANDB_API_KEY"))
    key, _, value = setting.partition("=")
    table, _, name = key.rpartition(".")
    recipe = place.path / "recipe-with-secret.toml"
    text = re.sub(rf"(?m)^{name} = .*\n", "", place.recipe)
    table_line = f"[{table}]\n"
    own = f"{name} = {json.dumps(value)}\n"
    text = (
        text.replace(table_line, table_line + own)
        if table_line in text
        else text + table_line + own
    )
    recipe.write_text(text)

    for arguments in (["recipe.toml", "--set", setting], [recipe.name]):
        output = place.forge_here("train", *arguments, expect=2)
        assert "1 problem\n" in output
        assert f"{key}: " in output
        assert where in output
        assert "Traceback" not in output
        assert leaks(place, {"output": output.encode()}) == []
    assert not place.run.root.exists()
