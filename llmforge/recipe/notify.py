"""``[notify]``: who is told when a run finishes, fails or stalls, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from llmforge.options import SAFE, Options
from llmforge.redaction import VARIABLE_NAME, hide
from llmforge.settings import credential

Occasion = Literal["finish", "failure", "stall", "interrupt"]
WebhookFormat = Literal["slack", "discord", "ntfy", "json"]

URL_VARIABLE = "FORGE_NOTIFY_URL"
"""Holds the address of the webhook where the recipe names no other variable."""

_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
_HOSTS: Mapping[str, WebhookFormat] = {
    "hooks.slack.com": "slack",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "ntfy.sh": "ntfy",
}


def parse_duration(text: str) -> float:
    """Return the seconds that ``"30 min"``, ``"2 h"`` or ``"90 s"`` mean.

    Raises:
        ValueError: it means none, or no time at all.
    """
    match = _DURATION.fullmatch(text.strip())
    unit = match and (_SECONDS.get(match[2]) or _SECONDS.get(match[2].removesuffix("s")))
    if match is None or not unit or not float(match[1]):
        raise ValueError(f"must be a duration such as '30 min', '2 h' or '90 s', got '{text}'")
    return float(match[1]) * unit


def is_web_address(url: str) -> bool:
    """Return whether ``url`` is one that a message can be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def check_variable(value: str) -> str:
    """Accept the name of a variable; what may be the secret itself is refused, and not shown."""
    if not VARIABLE_NAME.fullmatch(value):
        raise ValueError("must be the name of a variable, in capitals, such as SLACK_WEBHOOK_URL")
    return value


class WebhookTable(Options):
    """``[notify.webhook]``: a message is posted to an address."""

    url: Annotated[str | None, SAFE, Field(exclude=True)] = None
    """The address. It is as good as a password, so the run keeps it nowhere; better use
    ``url_env``."""
    url_env: Annotated[str, SAFE] = URL_VARIABLE
    """Variable of the environment, or of ``.env``, that holds the address."""
    format: Annotated[WebhookFormat | None, SAFE] = None
    """What the address takes; absent: as its host has it, else ``json``."""

    _check_variable = field_validator("url_env")(check_variable)

    @field_validator("url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not is_web_address(value):
            raise ValueError("must be an address that begins with https:// or http://")
        return value

    @model_validator(mode="after")
    def _one_address(self) -> WebhookTable:
        if self.url is not None and "url_env" in self.model_fields_set:
            raise ValueError("give url_env or url, not both")
        return self

    def address(self) -> str | None:
        """Return the address, from the recipe or the environment; None when neither has it."""
        return self.url or credential(self.url_env)

    def format_of(self, url: str) -> WebhookFormat:
        """Return what ``url`` takes."""
        return self.format or _HOSTS.get(urlsplit(url).hostname or "", "json")


class CommandTable(Options):
    """``[notify.command]``: a command is run, with the message on its standard input as JSON."""

    run: Annotated[list[str], SAFE, Field(min_length=1)]
    """The program and its arguments; it also gets ``FORGE_EVENT``, ``FORGE_MESSAGE`` and so on."""
    timeout: Annotated[float, SAFE, Field(gt=0)] = 60.0
    """Seconds after which it is killed and run again later."""


class EmailTable(Options):
    """``[notify.email]``: a mail is sent over SMTP."""

    to: Annotated[list[str], SAFE, Field(min_length=1)]
    """Who gets it."""
    host: Annotated[str, SAFE, Field(min_length=1)]
    """The mail server."""
    port: Annotated[int, SAFE, Field(gt=0, lt=65536)] = 587
    """Its port."""
    security: Annotated[Literal["starttls", "tls", "none"], SAFE] = "starttls"
    """How the connection is encrypted; ``none`` is for a server on the same machine."""
    user: Annotated[str | None, SAFE] = None
    """Name to log in with; absent: no login."""
    password_env: Annotated[str, SAFE] = "SMTP_PASSWORD"
    """Variable of the environment, or of ``.env``, that holds the password."""
    sender: Annotated[str | None, SAFE] = None
    """Who it is from; absent: ``user`` where that is an address, else ``to`` itself."""

    _check_variable = field_validator("password_env")(check_variable)

    @field_validator("to")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            if not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
                raise ValueError(f"'{address}' is not a mail address")
        return value


class NotifyTable(Options):
    """``[notify]``: messages when a run finishes, fails or stalls."""

    on: Annotated[list[Occasion], SAFE] = Field(default=["finish", "failure", "stall"])
    """When: ``finish`` also when it stops early, ``failure`` also when its process is killed,
    ``stall`` when no step is taken for ``stall_after``, ``interrupt`` when a signal stops it."""
    stall_after: Annotated[str, SAFE] = "30 min"
    """Time without a new step after which the run has stalled; evaluations count, so choose more
    than the slowest takes."""
    webhook: Annotated[WebhookTable | None, SAFE] = None
    """Posts it to Slack, Discord, ntfy or any other address."""
    command: Annotated[CommandTable | None, SAFE] = None
    """Runs a command."""
    email: Annotated[EmailTable | None, SAFE] = None
    """Sends a mail."""

    @field_validator("stall_after")
    @classmethod
    def _duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    @property
    def targets(self) -> Mapping[str, Options]:
        """The tables of those who are told, by name."""
        found = {"webhook": self.webhook, "command": self.command, "email": self.email}
        return {name: table for name, table in found.items() if table is not None}

    def hide_secrets(self) -> None:
        """Have addresses and passwords replaced wherever text is shown, kept or sent."""
        if self.webhook is not None and (url := self.webhook.address()):
            hide(url)
        if self.email is not None and (password := credential(self.email.password_env)):
            hide(password)
