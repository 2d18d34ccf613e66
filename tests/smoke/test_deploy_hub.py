"""``forge deploy`` to the hub: private, in one commit, nothing twice, each refusal explained."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deploy_parts import deployments, exported, files_of, on_hub, with_variables
from forge_process import Workplace
from hub_stand_in import TOKEN, Fault, Hub, running_hub

from llmforge_plugins.deployments import _hf_errors

TO = ("--to", "hf://acme/tiny")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the hub, and no long pauses between tries."""
    monkeypatch.setattr(_hf_errors, "_FIRST_PAUSE_SECONDS", 0.01)
    # read from the environment when huggingface_hub was imported, perhaps by another test
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with running_hub() as hub:
        yield hub


@pytest.fixture
def place(trained: Workplace, hub: Hub) -> Workplace:
    """The trained run, with a token of the hub in the environment."""
    return with_variables(trained, hub.environment())


def uploads(hub: Hub) -> int:
    return sum(request.startswith("PUT") for request in hub.requests)


def commits(hub: Hub) -> int:
    """Return how many commits the repository has besides the one that made it."""
    return len(hub.repositories["models/acme/tiny"].commits) - 1


def test_a_model_arrives_in_one_commit_of_a_private_repository(place: Workplace, hub: Hub) -> None:
    output = place.forge_here("deploy", "tiny", *TO)
    repository = hub.repositories["models/acme/tiny"]
    assert repository.private
    assert commits(hub) == 1
    assert on_hub(hub, "acme/tiny") == exported(place)
    commit = repository.commits[-1][0]
    assert f"hf://acme/tiny: 13 files sent and verified, {commit}" in output
    assert deployments(place)["hf://acme/tiny"]["revision"] == commit
    card = repository.commits[-1][1]["README.md"].decode()
    assert card.startswith("---\n")
    for told in ("llmforge", "`tiny`, step 12", "Fingerprint of the contents", "No licence"):
        assert told in card


def test_the_card_has_the_licence_that_was_chosen(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny", *TO, "--licence", "apache-2.0")
    card = hub.repositories["models/acme/tiny"].commits[-1][1]["README.md"].decode()
    assert "\nlicense: apache-2.0\n" in card.partition("\n---\n")[0]
    assert "No licence" not in card
    refused = place.forge_here("deploy", "tiny", *TO, "--licence", "My Licence", expect=2)
    assert "forge: --licence: " in refused


def test_the_second_time_nothing_is_sent(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny", *TO)
    before = uploads(hub)
    assert "hf://acme/tiny: there already" in place.forge_here("deploy", "tiny", *TO)
    assert (uploads(hub), commits(hub)) == (before, 1)
    assert not place.run.deploying.exists()


def test_another_checkpoint_replaces_what_was_deployed_and_nothing_else(
    place: Workplace, hub: Hub
) -> None:
    place.forge_here("deploy", "tiny@10", *TO, "--format", "safetensors")
    repository = hub.repositories["models/acme/tiny"]
    mine = {**repository.commits[-1][1], "notes.md": b"by hand"}
    repository.commit(mine)
    place.forge_here("deploy", "tiny", *TO)
    assert on_hub(hub, "acme/tiny") == exported(place)
    kept = {".gitattributes", "notes.md", "llmforge.json"}
    assert repository.commits[-1][1].keys() - exported(place).keys() == kept
    assert commits(hub) == 3
    assert any(name.startswith("tokenizer/") for name in mine)  # gone in the same commit


def test_what_somebody_changed_is_put_right(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny", *TO)
    repository = hub.repositories["models/acme/tiny"]
    repository.commit({**repository.commits[-1][1], "README.md": b"changed"})
    before = uploads(hub)
    assert "1 file sent" in place.forge_here("deploy", "tiny", *TO)
    assert on_hub(hub, "acme/tiny") == exported(place)
    assert uploads(hub) == before


def test_large_files_that_the_hub_has_are_not_sent_again(place: Workplace, hub: Hub) -> None:
    hub.faults.append(Fault("/commit/", 500, times=100))
    message = place.forge_here("deploy", "tiny", *TO, expect=1)
    assert "the hub answered 500" in message
    assert on_hub(hub, "acme/tiny") is None
    sent = uploads(hub)
    assert sent == 2  # the weights and the picture
    hub.faults.clear()
    place.forge_here("deploy", "tiny", *TO)
    assert uploads(hub) == sent
    assert on_hub(hub, "acme/tiny") == exported(place)


@pytest.mark.parametrize("request_part", ["repos/create", "/commit/", "/paths-info/", "/tree/"])
def test_a_failure_that_passes_is_survived(place: Workplace, hub: Hub, request_part: str) -> None:
    hub.faults.append(Fault(request_part, 503))
    place.forge_here("deploy", "tiny", *TO)
    assert on_hub(hub, "acme/tiny") == exported(place)
    assert commits(hub) == 1


def test_a_commit_of_somebody_else_in_between_is_kept(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny@10", *TO)
    hub.faults.append(Fault("/commit/", 412, error="the branch has moved"))
    place.forge_here("deploy", "tiny", *TO)
    assert on_hub(hub, "acme/tiny") == exported(place)


def test_public_is_what_was_asked_for_and_never_by_accident(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny@10", *TO, "--public")
    assert not hub.repositories["models/acme/tiny"].private
    before = on_hub(hub, "acme/tiny")
    message = place.forge_here("deploy", "tiny", *TO, expect=1)
    assert "hf://acme/tiny is public, and this deployment is private" in message
    assert "refused" in place.forge_here("deploy", "tiny", *TO, "--dry-run")
    assert on_hub(hub, "acme/tiny") == before
    assert "--public" in message
    place.forge_here("deploy", "tiny", *TO, "--public")
    assert on_hub(hub, "acme/tiny") == exported(place)


def test_a_private_repository_stays_private(place: Workplace, hub: Hub) -> None:
    place.forge_here("deploy", "tiny@10", *TO)
    assert "stays so" in place.forge_here("deploy", "tiny", *TO, "--public")
    assert hub.repositories["models/acme/tiny"].private


def test_a_dry_run_asks_and_changes_nothing(place: Workplace, hub: Hub) -> None:
    output = place.forge_here("deploy", "tiny", *TO, "--dry-run")
    assert "hf://acme/tiny: 13 to send, 0 to delete, private, the repository is made" in output
    assert hub.repositories == {}
    assert all(request.startswith(("GET", "HEAD")) for request in hub.requests)


REFUSALS = {
    "a wrong token": ({"HF_TOKEN": "hf_wrong"}, None, "does not accept the token (401)"),
    "no token": ({"HF_TOKEN": ""}, None, "needs a token of the hub that may write"),
    "another's name": ({}, "acme", "the token may not write there (403)"),
    "no room": (
        {},
        Fault("repos/create", 403, 9, "Private repository storage limit reached"),
        "the hub has no more room (403)",
    ),
    "a name that is taken": ({}, "hidden", "is taken"),
    "too many requests": ({}, Fault("/api/models", 429, 99), "the hub answered 429"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_to_do(
    place: Workplace, hub: Hub, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, trouble, message = REFUSALS[case]
    monkeypatch.setenv("HF_TOKEN_PATH", str(place.path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(place.path / "no-token"))
    if isinstance(trouble, Fault):
        hub.faults.append(trouble)
    elif trouble == "hidden":
        hub.hidden.add("models/acme/tiny")
    elif trouble:
        hub.forbidden.add(trouble)
    output = with_variables(place, variables).forge_here("deploy", "tiny", *TO, expect=1)
    assert message in output
    assert "1 of 1 deployments failed" in output
    assert on_hub(hub, "acme/tiny") is None
    assert all(len(line) <= 200 for line in output.splitlines())


def test_a_hub_that_alters_files_is_noticed(place: Workplace, hub: Hub) -> None:
    hub.altered.add("config.json")
    message = place.forge_here("deploy", "tiny", *TO, expect=1)
    assert "is not what was sent: config.json" in message
    hub.altered.clear()
    assert "1 file sent" in place.forge_here("deploy", "tiny", *TO)
    assert on_hub(hub, "acme/tiny") == exported(place)


def test_a_hub_that_is_not_there_is_named(place: Workplace) -> None:
    nowhere = with_variables(place, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    message = nowhere.forge_here("deploy", "tiny", *TO, expect=1)
    assert "the hub cannot be reached at http://127.0.0.1:9: " in message
    assert "ConnectError" not in message


def test_the_token_is_shown_and_kept_nowhere(place: Workplace, hub: Hub) -> None:
    output = place.forge_here("deploy", "tiny", *TO, "--json")
    json.loads(output)
    hub.faults.append(Fault("/commit/", 400, error=f"what is {TOKEN}?"))
    output += place.forge_here("deploy", "tiny@10", *TO, expect=1)
    assert TOKEN not in output
    assert "***" in output
    for name, content in {**files_of(place.run.path), **(on_hub(hub, "acme/tiny") or {})}.items():
        assert TOKEN.encode() not in content, name
