"""Sending a message: posting it to a webhook, running a command, or mailing it."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import shutil
import smtplib
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any

from llmforge.courier.notifications.message import Message
from llmforge.errors import ForgeError, Problem
from llmforge.printable import printable
from llmforge.recipe.notify import (
    URL_VARIABLE,
    CommandTable,
    EmailTable,
    NotifyTable,
    WebhookFormat,
    WebhookTable,
    is_web_address,
)
from llmforge.settings import credential

Sender = Callable[[Message], None]
"""Sends one message, or raises."""

TIMEOUT_SECONDS = 10.0
_LONGEST_TEXT = 1900
_PRIORITY = {"failure": "high", "stall": "high"}


class NotSent(ForgeError):
    """A message was not taken; it is sent again later."""


def senders(notify: NotifyTable) -> dict[str, Sender]:
    """Return how to send to each target of a recipe, by its name."""
    found: dict[str, Sender] = {}
    if (webhook := notify.webhook) is not None:
        found["webhook"] = lambda message: _post(webhook, message)
    if (command := notify.command) is not None:
        found["command"] = lambda message: _run(command, message)
    if (mail := notify.email) is not None:
        found["email"] = lambda message: _mail(mail, message)
    return found


def notify_problems(notify: NotifyTable) -> list[Problem]:
    """Return what is missing before a message can be sent; nothing is sent for it."""
    problems = []
    if (webhook := notify.webhook) is not None:
        url, name = webhook.address(), webhook.url_env
        if url is None:
            remedy = f"set {name} in the environment or in .env"
            if name == URL_VARIABLE:
                remedy += ", or name another variable with notify.webhook.url_env"
            problems.append(_problem("webhook.url_env", f"{name} is not set", remedy))
        elif not is_web_address(url):
            wrong = f"{name} does not hold an address"
            remedy = "it begins with https:// or http://"
            problems.append(_problem("webhook.url_env", wrong, remedy))
    if (command := notify.command) is not None and shutil.which(command.run[0]) is None:
        wrong = f"'{command.run[0]}' is no program that can be run here"
        remedy = "give its path, and make it executable"
        problems.append(_problem("command.run", wrong, remedy))
    mail = notify.email
    if mail is not None and mail.user is not None and credential(mail.password_env) is None:
        wrong = f"{mail.password_env}, the password of '{mail.user}', is not set"
        remedy = "set it in the environment or in .env"
        problems.append(_problem("email.password_env", wrong, remedy))
    return problems


def _problem(key: str, message: str, remedy: str) -> Problem:
    return Problem(key=f"notify.{key}", message=message, remedy=remedy)


# Webhook ------------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: a message that was posted would be fetched there instead."""


def _post(webhook: WebhookTable, message: Message) -> None:
    url = webhook.address()
    if url is None:
        raise NotSent(f"{webhook.url_env} is not set")
    body, headers = _body(webhook.format_of(url), message)
    headers |= {"User-Agent": "llmforge", "Idempotency-Key": str(message.facts["id"])}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        raise NotSent(f"the webhook answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error  # neither says the address
        raise NotSent(f"the webhook did not answer: {reason}") from None


def _body(form: WebhookFormat, message: Message) -> tuple[bytes, dict[str, str]]:
    """Return the content of a request and its headers."""
    if form == "ntfy":
        occasion = str(message.facts["event"])
        title = message.title.encode("ascii", "ignore").decode().strip()
        headers = {"Title": title, "Priority": _PRIORITY.get(occasion, "default")}
        return message.text.encode(), {**headers, "Content-Type": "text/plain; charset=utf-8"}
    text = message.whole
    if form == "slack":
        # the three characters that Slack's own markup needs escaped
        for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(plain, escaped)
    forms: Mapping[str, Mapping[str, Any]] = {
        "slack": {"text": text},
        "discord": {"content": text[:_LONGEST_TEXT], "allowed_mentions": {"parse": []}},
        "json": {"title": message.title, "text": message.text, **message.facts},
    }
    return _json(forms[form]), {"Content-Type": "application/json"}


def _json(content: Any) -> bytes:
    return json.dumps(content, default=str).encode()


# Command ------------------------------------------------------------------------------------


def _run(command: CommandTable, message: Message) -> None:
    facts = message.facts
    variables = {
        "FORGE_EVENT": facts["event"],
        "FORGE_MESSAGE": message.whole,
        "FORGE_MESSAGE_ID": facts["id"],
        "FORGE_RUN_ID": facts["run"],
        "FORGE_RUN_NAME": facts["name"],
        "FORGE_RUN_DIRECTORY": facts["directory"],
        "FORGE_STATE": facts["state"],
        "FORGE_REASON": facts["reason"],
        "FORGE_STEP": facts["step"],
        "FORGE_NEXT_COMMAND": facts["next_command"],
    }
    content = _json({"title": message.title, "text": message.text, **facts})
    own = {name: str(value).replace("\0", "") for name, value in variables.items()}
    try:
        ended = subprocess.run(
            command.run,
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **own},
            timeout=command.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotSent(f"{command.run[0]} took more than {command.timeout:g} s") from None
    except OSError as error:
        raise NotSent(f"{command.run[0]} cannot be run: {error.strerror}") from None
    if ended.returncode:
        said = printable(ended.stderr.decode(errors="replace").strip())[-200:]
        raise NotSent(f"{command.run[0]} ended with code {ended.returncode}: {said}")


# Mail ---------------------------------------------------------------------------------------


def _mail(mail: EmailTable, message: Message) -> None:
    try:
        with _connection(mail) as server:
            if mail.user is not None:
                server.login(mail.user, credential(mail.password_env) or "")
            server.send_message(_letter(mail, message))
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotSent(f"{mail.host}:{mail.port} did not take it: {error}") from None


def _connection(mail: EmailTable) -> smtplib.SMTP:
    if mail.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(mail.host, mail.port, timeout=TIMEOUT_SECONDS, context=context)
    server = smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT_SECONDS)
    if mail.security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _letter(mail: EmailTable, message: Message) -> EmailMessage:
    letter = EmailMessage()
    named = mail.user if mail.user is not None and "@" in mail.user else None
    letter["From"] = mail.sender or named or mail.to[0]
    letter["To"] = ", ".join(mail.to)
    letter["Subject"] = " ".join(message.title.split())
    letter["Date"] = email.utils.formatdate(message.facts["time"])
    place = str(message.facts["id"]).translate(str.maketrans("/: ", "..."))
    letter["Message-ID"] = f"<{place}@{socket.gethostname() or 'localhost'}>"
    letter.set_content(message.text + "\n")
    return letter
