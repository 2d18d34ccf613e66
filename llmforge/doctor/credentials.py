"""Credentials: present or not and where they come from, never what they are."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from llmforge.doctor.finding import Finding, ok, problem
from llmforge.errors import PluginError
from llmforge.plugins import listed, load

_HUB = "deploy:hf"
_S3 = "storage:s3"
_GCS = "storage:gcs"


def check_credentials(given: Set[str]) -> Iterator[Finding]:
    """Yield which credentials are there, and files of credentials that cannot be read.

    Args:
        given: names of the environment before ``.env`` was read.
    """
    found = {name: _origin(name, given) for name in _variables() if os.environ.get(name)}
    absent = [name for name in _variables() if name not in found]
    for origin in sorted(set(found.values())):
        names = ", ".join(name for name, one in found.items() if one == origin)
        yield ok("credentials.variables", f"set in {origin}: {names}")
    if absent:
        yield ok("credentials.absent", f"not set: {', '.join(absent)}")
    for check in (_hub_token, _aws_file, _google_file):
        yield from check(os.environ)


def _variables() -> list[str]:
    """Return the variables that installed components say hold their credentials."""
    names: dict[str, None] = {}
    for entry in listed():
        try:
            names |= dict.fromkeys(load(entry.kind, entry.name).credentials)
        except (PluginError, KeyError):  # another check says so; a command has none
            continue
    return list(names)


def _origin(name: str, given: Set[str]) -> str:
    return "the environment" if name in given else str(Path(".env").absolute())


def _hub_token(environ: Mapping[str, str]) -> Iterator[Finding]:
    home = Path(environ.get("HF_HOME", "~/.cache/huggingface"))
    path = Path(environ.get("HF_TOKEN_PATH", home / "token")).expanduser()
    if environ.get("HF_TOKEN") or not path.exists():
        return
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "hf auth login, or set HF_TOKEN"
        yield _unreadable("the token of the Hugging Face hub", path, error, remedy, _HUB)
        return
    if token:
        yield ok("credentials.hub", f"token of the Hugging Face hub in {path}")
    else:
        message = f"{path} is empty: no token of the Hugging Face hub"
        remedy = "hf auth login, or set HF_TOKEN"
        yield problem("credentials.files", message, remedy=remedy, concerns=_HUB)


def _aws_file(environ: Mapping[str, str]) -> Iterator[Finding]:
    path = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if not path.exists():
        return
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        remedy = "aws configure, which writes it"
        yield _unreadable("AWS credentials", path, error, remedy, _S3)
        return
    profile = environ.get("AWS_PROFILE", "default")
    if profile in parser:
        yield ok("credentials.aws", f"AWS credentials of profile '{profile}' in {path}")
    else:
        yield problem(
            "credentials.files",
            f"{path} has no profile '{profile}'",
            remedy=f"set AWS_PROFILE to one of: {', '.join(parser.sections()) or 'none there'}",
            concerns=_S3,
        )


def _google_file(environ: Mapping[str, str]) -> Iterator[Finding]:
    given = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    base = environ.get("CLOUDSDK_CONFIG", "~/.config/gcloud")
    path = Path(given or Path(base) / "application_default_credentials.json").expanduser()
    remedy = "gcloud auth application-default login, or the key file of a service account in "
    remedy += "GOOGLE_APPLICATION_CREDENTIALS"
    if not path.exists():
        if given:
            message = "GOOGLE_APPLICATION_CREDENTIALS names a file that does not exist"
            yield problem("credentials.files", message, remedy=remedy, concerns=_GCS)
        return
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield _unreadable("Google's credentials", path, error, remedy, _GCS)
        return
    yield ok("credentials.google", f"Google's credentials ({kind}) in {path}")


def _unreadable(what: str, path: Path, error: Exception, remedy: str, concerns: str) -> Finding:
    """Return that a file is no credentials, without quoting it."""
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    else:
        line = getattr(error, "lineno", None)
        reason = "it is not in their format" + (f", line {line}" if isinstance(line, int) else "")
    message = f"{what} cannot be read from {path}: {reason}"
    return problem("credentials.files", message, remedy=remedy, concerns=concerns)
