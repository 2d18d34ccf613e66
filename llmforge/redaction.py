"""What counts as a secret, and taking secrets out of text that is shown, kept or sent.

Secrets are known in two ways: by value, because the environment holds them, and by form, because
they look like one. Whatever writes text that others made (errors above all) passes it through
:func:`redact` first.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from llmforge.printable import printable

HIDDEN = "***"
"""Stands where a secret was."""

_SHORTEST = 8
_UNMISTAKABLE = 16
"""Shorter values of variables are not looked for: they are words that occur for other reasons."""

_NAME = re.compile(
    r"(^|_)(api_?key|access_?key|secret_?key|private_?key|account_?key|password|passwd|passphrase"
    r"|secret|credentials?|connection_?string)($|_)"
    r"|^((api|access|auth|bearer|hf|hub|refresh|session|wandb)_?)?token$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(^|_)(TOKEN|KEY|PASS)$", re.IGNORECASE)
VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
"""A variable of the environment, as they are usually written: what is a secret itself is not."""
_LOGIN = re.compile(r"(?<=://)[^/@\s'\"]+@")
# No form may look far from each of many beginnings: a text of a megabyte is searched, too.
_PASSWORD = re.compile(r"(?<=[a-z0-9+.-])://[^/\s:@]*:([^/\s@]+)@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&][\w.-]{0,64}(?:token|key|secret|password|passwd|sig|signature|credential)[\w.-]{0,64}=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_KEYS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,})\b",
    re.IGNORECASE,
)
_WEBHOOK = re.compile(
    r"(?<=://)(hooks\.slack\.com|(?:\w{1,16}\.)?discord(?:app)?\.com/api/webhooks)/[^\s'\"]+",
    re.IGNORECASE,
)
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----", re.IGNORECASE)
_KEY_ENDS = re.compile(r"-----END [A-Z ]{0,32}PRIVATE KEY-----", re.IGNORECASE)
_LONGEST_KEY = 16_384
_HEADER = re.compile(
    r"""(authorization['"]?\s{0,64}[:=]\s{0,64}['"]?(?:basic|bearer)\s{1,64})[^\s'"]+""",
    re.IGNORECASE,
)
_REMEDY = "take it out of the recipe and put it in the environment or .env"


_hidden: set[str] = set()


def hide(secret: str) -> None:
    """Have :func:`redact` replace ``secret`` too, in this process, whatever it looks like."""
    _hidden.add(secret)


def is_secret_name(name: str) -> bool:
    """Return whether a value called ``name`` must not be shown: a password, key or token."""
    return bool(_NAME.search(name.replace("-", "_")))


def holds_credential(text: str) -> bool:
    """Return whether ``text`` is like a secret, a URL with one in it, or one of the environment."""
    if any(form.search(text) for form in (_PASSWORD, _QUERY, _KEYS, _KEY_BEGINS)):
        return True
    return any(len(secret) >= _UNMISTAKABLE and secret in text for secret in _known())


def redact(text: str) -> str:
    """Return ``text`` with every secret in it replaced by ``***``.

    That is the values of secret variables of the environment, logins and keys in URLs, and what
    has the form of a well-known key.
    """
    for secret in _known():
        text = text.replace(secret, HIDDEN)
    text = _LOGIN.sub(f"{HIDDEN}@", _WEBHOOK.sub(rf"\g<1>/{HIDDEN}", text))
    text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    return _HEADER.sub(rf"\g<1>{HIDDEN}", _KEYS.sub(HIDDEN, _without_private_keys(text)))


def _without_private_keys(text: str) -> str:
    """Hide keys in PEM form (RFC 7468), their ends looked for once however many begin."""
    kept: list[str] = []
    done = 0
    end = _KEY_ENDS.search(text)
    for begin in _KEY_BEGINS.finditer(text):
        if begin.start() < done:
            continue
        while end is not None and end.start() < begin.end():
            end = _KEY_ENDS.search(text, begin.end())
        near = end is not None and end.start() - begin.end() <= _LONGEST_KEY
        kept += [text[done : begin.start()], HIDDEN]
        done = end.end() if end is not None and near else begin.end()
    return "".join([*kept, text[done:]])


def redact_values(value: Any) -> Any:
    """Return nested lists and mappings with every text in them redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line without what may be secret in it."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--set=").partition("=")
        is_secret = is_secret_name(name.lstrip("-").rsplit(".", 1)[-1])
        if hide_next:
            shown.append(HIDDEN)
        elif equals and is_secret:
            shown.append(argument[: argument.index(name) + len(name)] + f"={HIDDEN}")
        else:
            shown.append(redact(argument))
        hide_next = not hide_next and not equals and is_secret and argument.startswith("--")
    return shown


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines of one record."""
        return printable(redact(super().format(record)))


class RedactingStream:
    """A text stream that passes complete lines on to another one without secrets."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        """Take ``text``; what follows its last line break waits for the rest of its line."""
        *lines, self._rest = (self._rest + text).splitlines(keepends=True) or [""]
        if self._rest.endswith("\n"):
            lines, self._rest = [*lines, self._rest], ""
        if lines:
            self._stream.write(redact("".join(lines)))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Pass nothing on: an unfinished line may end within a secret."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_tracebacks() -> None:
    """Have tracebacks of errors that nobody caught printed without secrets."""
    sys.excepthook = _print_traceback


def find_secrets(
    tables: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (key, what is wrong) for every value that looks like a secret, never the value."""
    for key, value in tables.items():
        path = (*prefix, key)
        if isinstance(value, Mapping):
            yield from find_secrets(value, path)
        elif _may_hold_one(value) and is_secret_name(key) and not _names_variable(key, value):
            yield path, "looks like a secret"
        elif any(holds_credential(text) for text in _texts(value)):
            yield path, "the value holds a credential"


def secret_remedy(variables: Sequence[str]) -> str:
    """Return where a secret belongs; ``variables`` are the names it is looked for under."""
    return f"{_REMEDY}, as {' and '.join(variables)}" if variables else _REMEDY


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(printable(redact(text)))


def _known() -> Sequence[str]:
    """Return the secrets that are known as they are and as URLs write them, longest first."""
    return _secrets_of(tuple(os.environ.items()), frozenset(_hidden))


@lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...], hidden: frozenset[str]) -> Sequence[str]:
    found = set(hidden)
    for name, value in environment:
        if is_secret_name(name) or _VARIABLE.search(name):
            found.add(value)
        else:
            found.update(_PASSWORD.findall(value))
    secrets = {item for item in found if len(item) >= _SHORTEST and not os.path.exists(item)}  # noqa: PTH110  # a key may be no valid path
    spellings = {form for item in secrets for form in (item, quote(item, safe=""), unquote(item))}
    return sorted(spellings, key=len, reverse=True)


def _may_hold_one(value: Any) -> bool:
    return isinstance(value, str | list | int) and not isinstance(value, bool) and value != ""


def _names_variable(key: str, value: Any) -> bool:
    """Return whether a value is the name of a variable that holds the secret."""
    return key.endswith("_env") and isinstance(value, str) and bool(VARIABLE_NAME.fullmatch(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
