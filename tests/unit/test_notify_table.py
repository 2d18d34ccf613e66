"""Notifications: what a recipe may say of them, what is sent, and that it is sent once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from notify_servers import HOST, MailServer, Webhook, wait_until
from pydantic import ValidationError
from run_parts import make_run

from llmforge.courier.cursor import rewind_cursors
from llmforge.courier.journal import JournalWriter
from llmforge.courier.notifications import alert, pending_messages
from llmforge.courier.notifications.alerts import StallWatch
from llmforge.courier.notifications.delivery import AlertCursor, Notifier, notify_cursor
from llmforge.courier.notifications.message import Message, message_of
from llmforge.courier.notifications.targets import NotSent, notify_problems, senders
from llmforge.events import Alert, MetricsLogged, decode, encode
from llmforge.recipe import load_recipe
from llmforge.recipe.notify import NotifyTable, parse_duration
from llmforge.recipe.run_identity import identity
from llmforge.redaction import hide, redact
from llmforge.rundir import RunDirectory, read_record, write_record


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, "one")


def notify(**tables: Any) -> NotifyTable:
    return NotifyTable.model_validate(tables)


def message(occasion: str = "finish", **facts: Any) -> Message:
    known = {
        "id": "one/1.1:finish",
        "run": "one",
        "name": "a <b> & c",
        "state": "completed",
        "reason": "all 600 steps taken",
        "step": 600,
        "total_steps": 600,
        "best": {"metric": "val/loss", "value": 3.4, "step": 500},
        "seconds": 240.0,
        "host": "box",
        "directory": "/runs/one",
        "next_command": "forge generate one",
    }
    return message_of(Alert(id=known["id"], occasion=occasion, time=1.0, facts=known | facts))


# The recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("30 min", 1800), ("2h", 7200), ("90 s", 90), ("1.5 hours", 5400)]
)
def test_durations_are_written_as_people_do(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "30 parsecs", "0 s", "-1 min", "hs"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="must be a duration such as '30 min'"):
        notify(stall_after=text)


def test_an_address_that_is_none_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        notify(webhook={"url": "htp:/secret"})
    assert "begins with https://" in caught.value.errors(include_url=False)[0]["msg"]


def test_an_address_is_never_part_of_what_is_written() -> None:
    table = notify(webhook={"url": "https://example.org/secret"})
    assert "secret" not in json.dumps(table.model_dump(mode="json"))
    assert table.webhook is not None
    assert table.webhook.address() == "https://example.org/secret"


def test_who_is_told_makes_no_other_run_and_the_address_is_not_kept() -> None:
    address = "https://example.org/known-to-few"
    plain = load_recipe("wikitext_tiny")
    told = load_recipe("wikitext_tiny", overrides=[f'notify.webhook.url="{address}"'])
    assert identity(told) == identity(plain)
    assert "notify" not in plain.tables
    assert told.tables["notify"]["webhook"] == {"url_env": "FORGE_NOTIFY_URL"}
    assert address not in redact(f"forge train --set notify.webhook.url={address}")


def test_hidden_addresses_and_known_services_are_taken_out_of_text() -> None:
    hide("https://example.org/a-secret-path")
    assert redact("post to https://example.org/a-secret-path failed") == "post to *** failed"
    slack = "https://hooks.slack.com/services/T00/B00/abc"
    assert redact(f"at {slack}, twice") == "at https://hooks.slack.com/*** twice"
    assert redact("https://discord.com/api/webhooks/1/x") == "https://discord.com/api/webhooks/***"


# What is said -------------------------------------------------------------------------------------


def test_a_message_says_what_people_ask() -> None:
    found = message()
    assert found.title == "✅ one completed"
    assert found.text.splitlines() == [
        "all 600 steps taken",
        "step 600 of 600, after 4:00",
        "best val/loss 3.4000 at step 500",
        "name: a <b> & c",
        "on box: /runs/one",
        "next: forge generate one",
    ]


def test_a_loss_that_is_no_number_does_not_break_a_message() -> None:
    assert "train/loss nan" in message(best=None, train_loss=float("nan")).text


def test_an_alert_survives_the_journal(run: RunDirectory) -> None:
    event = alert(run, "finish", state="completed")
    assert decode(encode(event)) == event


# Sending ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["slack", "discord", "ntfy", "json"])
def test_each_form_of_webhook_gets_what_it_takes(form: str) -> None:
    with Webhook() as webhook:
        send = senders(notify(webhook={"url": webhook.url, "format": form}))["webhook"]
        send(message("failure"))
        (post,) = webhook.taken
    if form == "ntfy":
        assert post.headers["Title"] == "one completed"
        assert post.headers["Priority"] == "high"
        assert b"best val/loss" in post.content
        return
    body = post.body
    text = {"slack": body.get("text"), "discord": body.get("content"), "json": body.get("text")}
    assert "best val/loss 3.4000" in str(text[form])
    assert ("&lt;b&gt; &amp; c" in str(text[form])) == (form == "slack")


@pytest.mark.parametrize(("answer", "says"), [(404, "404"), (302, "302"), ("hang", "timed out")])
def test_a_webhook_that_does_not_take_it_is_an_error_without_its_address(
    answer: int | str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.courier.notifications.targets.TIMEOUT_SECONDS", 0.3)
    with Webhook(answer) as webhook:
        send = senders(notify(webhook={"url": f"{webhook.url}secret"}))["webhook"]
        with pytest.raises(NotSent, match=says) as caught:
            send(message())
        assert not webhook.taken
    assert "secret" not in str(caught.value)


def test_a_mail_is_sent_with_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "opensesame")
    with MailServer(password="opensesame") as server:
        table = {"to": ["a@b.c", "d@e.f"], "host": HOST, "port": server.port, "security": "none"}
        login = {"user": "me@b.c", "password_env": "MAIL_PASSWORD"}
        senders(notify(email=table | login))["email"](message())
    (letter,) = server.box.letters
    assert server.box.logins == [("me@b.c", "opensesame")]
    assert (letter["From"], letter["To"]) == ("me@b.c", "a@b.c, d@e.f")
    assert letter["Message-ID"].startswith("<one.1.1.finish@")
    assert "next: forge generate one" in letter.get_payload(decode=True).decode()  # type: ignore[union-attr]


def test_a_wrong_password_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "wrong")
    with MailServer(password="right") as server:
        table = {"to": ["a@b.c"], "host": HOST, "port": server.port, "security": "none"}
        with pytest.raises(NotSent, match="535"):
            senders(notify(email=table | {"user": "me"}))["email"](message())


def test_a_command_that_fails_says_why() -> None:
    table = {"run": ["sh", "-c", "echo no such channel >&2; exit 3"]}
    with pytest.raises(NotSent, match="ended with code 3: no such channel"):
        senders(notify(command=table))["command"](message())


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(NotSent, match=r"took more than 0\.2 s"):
        senders(notify(command={"run": ["sleep", "30"], "timeout": 0.2}))["command"](message())


def test_preflight_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD_HOOK", "hooks.example.org")
    table = notify(webhook={"url_env": "BAD_HOOK"}, command={"run": ["no-such-program"]})
    keys = [problem.key for problem in notify_problems(table)]
    assert keys == ["notify.webhook.url_env", "notify.command.run"]


# Once ---------------------------------------------------------------------------------------------


def deliver(run: RunDirectory, sent: list[Message], *, failures: int = 0) -> Notifier:
    left = [failures]

    def send(found: Message) -> None:
        if left[0]:
            left[0] -= 1
            raise NotSent("not now")
        sent.append(found)

    notifier = Notifier(run, "webhook", send=send, on_error=lambda *_: None)
    notifier.start()
    return notifier


def append(run: RunDirectory, *events: Any) -> None:
    journal = JournalWriter(run.journal)
    for event in events:
        journal.append(event)
    journal.close()


def test_a_message_that_fails_is_sent_again_and_then_no_more(run: RunDirectory) -> None:
    sent: list[Message] = []
    notifier = deliver(run, sent, failures=2)
    append(run, MetricsLogged(step=1, values={"a": 1.0}, time=0.0))
    append(run, alert(run, "finish", state="completed"))
    wait_until(lambda: not notifier.pending())
    notifier.close()
    notifier.join()
    rewind_cursors(run.cursors)  # as when the run is resumed elsewhere
    again = deliver(run, sent)
    time.sleep(0.4)
    again.close()
    again.join()
    assert [item.facts["state"] for item in sent] == ["completed"]


def test_a_target_that_is_new_is_told_nothing_of_before(run: RunDirectory) -> None:
    append(run, alert(run, "failure", state="failed"))
    sent: list[Message] = []
    notifier = deliver(run, sent)
    notifier.close()
    notifier.join()
    assert not sent
    assert pending_messages(run) == {}


def test_messages_that_wait_are_counted(run: RunDirectory) -> None:
    AlertCursor(notify_cursor(run, "email")).save()
    append(run, alert(run, "failure", state="failed"))
    assert pending_messages(run) == {"notify.email": 1}


# Stalls -------------------------------------------------------------------------------------------


def test_a_run_that_takes_no_step_is_noticed_once_for_each_step(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", state="running", ended=None, step=3)
    stalls: list[int] = []
    enough = threading.Event()

    def stalled(step: int, seconds: float) -> None:
        assert seconds >= 0.2
        stalls.append(step)
        enough.set()

    watch = StallWatch(run, after=0.2, on_stall=stalled)
    watch.start()
    assert enough.wait(10)
    time.sleep(0.5)
    assert stalls == [3]
    enough.clear()
    record = read_record(run)
    record.step = 4
    write_record(run, record)
    assert enough.wait(10)
    watch.close()
    watch.join()
    assert stalls == [3, 4]


def test_a_run_that_has_ended_does_not_stall(run: RunDirectory) -> None:
    stalls: list[int] = []
    watch = StallWatch(run, after=0.1, on_stall=lambda step, _: stalls.append(step))
    watch.start()
    time.sleep(0.5)
    watch.close()
    watch.join()
    assert not stalls
