"""``[notify]``: real runs, and the servers and commands that are told about them."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from forge_process import Workplace, logged
from notify_servers import HOST, MailServer, Webhook, wait_until

SECRET = "services/T0000/B0000/s3cr3t-of-a-webhook"
SHORT = {"train.max_steps": "12", "generation.prompts": "[]"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, Webhook, int]]:
    """A run whose webhook fails first, whose mail server is down, and its end."""
    path = tmp_path_factory.mktemp("told")
    port = free_port()
    with Webhook(503) as webhook:
        place = Workplace(
            path,
            {
                **SHORT,
                "notify.webhook.url": f'"{webhook.url}{SECRET}"',
                "notify.command.run": f'["sh", "-c", "cat > {path}/$FORGE_EVENT.json"]',
                "notify.email": f'{{to = ["me@example.org"], host = "{HOST}", port = {port}, '
                'security = "none"}',
                "tracker.close_timeout": "4",
            },
        )
        place.train()
        yield place, webhook, port


def test_a_webhook_that_fails_first_gets_the_message_once(
    told: tuple[Workplace, Webhook, int],
) -> None:
    place, webhook, _ = told
    (post,) = webhook.taken
    assert webhook.refused == 1
    assert post.path == f"/{SECRET}"
    body = post.body
    assert (body["event"], body["run"], body["state"]) == ("finish", "tiny", "completed")
    assert body["step"] == body["total_steps"] == 12
    assert body["best"]["metric"] == "val/loss"
    assert body["reason"] == "all 12 steps taken"
    assert "forge generate tiny" in body["text"]
    assert post.headers["Idempotency-Key"] == "tiny/1.1:finish"
    assert place.record["state"] == "completed"


def test_a_command_gets_it_as_json_and_variables(told: tuple[Workplace, Webhook, int]) -> None:
    place, _, _ = told
    body = json.loads((place.path / "finish.json").read_text())
    assert body["title"].endswith("tiny completed")
    assert body["seconds"] > 0


def test_the_address_of_a_webhook_is_nowhere_in_the_run(
    told: tuple[Workplace, Webhook, int],
) -> None:
    place, _, _ = told
    written = [path for path in place.run.path.rglob("*") if path.is_file()]
    written.append(place.path / "output.txt")
    assert len(written) > 10
    for path in written:
        assert b"s3cr3t-of-a-webhook" not in path.read_bytes(), path


def test_what_a_dead_mail_server_missed_is_sent_later_and_once(
    told: tuple[Workplace, Webhook, int],
) -> None:
    place, webhook, port = told
    assert (
        "notify.email: 1 not sent yet; 'forge runs sync tiny'"
        in (place.run.path / "log.txt").read_text()
    )
    status = place.forge_here("runs", "status", "tiny")
    assert "1 events wait for notify.email: forge runs sync tiny" in status
    refused = place.forge_here("runs", "sync", "tiny", expect=2)
    assert "FORGE_NOTIFY_URL is not set" in refused
    place.environment = {"FORGE_NOTIFY_URL": f"{webhook.url}{SECRET}"}  # type: ignore[misc]
    with MailServer(port=port) as server:
        assert "notify.email: 1 sent" in place.forge_here("runs", "sync", "tiny")
        assert "notify.email: 0 sent" in place.forge_here("runs", "sync", "tiny")
        (letter,) = server.box.letters
    assert letter["To"] == "me@example.org"
    assert "completed" in str(letter["Subject"])
    assert len(webhook.taken) == 1


def endless(path: Path, webhook: Webhook, **settings: str) -> Workplace:
    """Return a place for a run that tells of itself and does not end."""
    own = {
        "train.max_steps": "100000",
        "notify.webhook.url_env": '"MY_HOOK"',
        "notify.webhook.format": '"slack"',
    }
    return Workplace(path, {**own, **settings}, environment={"MY_HOOK": webhook.url})


def test_a_run_that_is_killed_is_told_of_by_its_courier(tmp_path: Path) -> None:
    with Webhook(503) as webhook:
        process = endless(tmp_path / "place", webhook).start()
        try:
            assert process.wait_for(logged("step     12/100000"))
        finally:
            process.kill()
        wait_until(lambda: texts(webhook, "tiny crashed"))
    (text,) = texts(webhook, "")
    assert "its process is gone" in text
    assert "next: cd " in text
    assert "&amp;&amp; forge train recipe.toml" in text


@pytest.mark.slow
def test_a_run_that_stalls_is_told_of_while_it_does(tmp_path: Path) -> None:
    with Webhook() as webhook:
        place = endless(tmp_path / "place", webhook, **{"notify.stall_after": '"10 s"'})
        process = place.start()
        try:
            assert process.wait_for(logged("step     12/100000"))
            process.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: texts(webhook, "tiny stalled"))
        finally:
            process.kill()
    assert "no step was taken for 0:1" in texts(webhook, "tiny stalled")[-1]


def texts(webhook: Webhook, having: str) -> list[str]:
    found = [str(post.body["text"]) for post in webhook.taken]
    return [text for text in found if having in text]


def test_what_is_missing_is_told_before_the_first_step(workplace: Workplace) -> None:
    workplace.settings = {  # type: ignore[misc]
        **SHORT,
        "notify.webhook.url_env": '"NO_SUCH_HOOK"',
        "notify.command.run": '["no-such-program"]',
        "notify.email": '{to = ["me@example.org"], host = "localhost", user = "me"}',
    }
    for further in ((), ("--dry-run",)):
        output = workplace.train_here(*further, expect=2)
        assert "NO_SUCH_HOOK is not set" in output
        assert "'no-such-program' is no program that can be run here" in output
        assert "SMTP_PASSWORD, the password of 'me', is not set" in output
    assert not workplace.checkpoints
