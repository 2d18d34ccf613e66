"""A client of an MLflow store: where it is, whether it answers, and its errors in few words.

Shared by the kinds ``tracker`` and ``deploy``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import portalocker
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llmforge.errors import Problem
from llmforge_plugins._mlflow_place import is_server, sqlite_file, without_login

KEY = "tracker.mlflow.tracking_uri"

WITHOUT_CREDENTIALS = (401, 403)
_NOT_FOUND = 404

# The courier tries again by itself, so that a call need not; whoever sets these is obeyed.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PREFLIGHT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def connect(uri: str) -> MlflowClient:
    """Return a client of the store at ``uri`` whose calls fail soon instead of waiting for long.

    The tables of an SQLite store that does not exist yet are made, by one process at a time.
    """
    for name, value in _QUICK.items():
        os.environ.setdefault(name, value)
    with _alone_with(sqlite_file(uri)):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def login_problem(option: str | None) -> Problem | None:
    """Return what is wrong with a recipe's URI that holds a password, which recipes never do."""
    if option is None or option == without_login(option):
        return None
    return Problem(
        key=KEY,
        message="the URI holds a login, and a recipe is no place for secrets",
        remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment, or "
        "the whole URI as MLFLOW_TRACKING_URI",
    )


def readiness(uri: str) -> tuple[Problem | None, str]:
    """Ask the store for an answer; return what stops the run, or what the user should know."""
    shown = without_login(uri)
    try:
        with _hurry():
            connect(uri).search_experiments(max_results=1)
    except MlflowException as error:
        status = error.get_http_status_code()
        if not is_server(uri):
            return _unreadable(shown, error), ""
        if status in WITHOUT_CREDENTIALS:
            return (
                Problem(
                    key=KEY,
                    message=f"{shown} refuses the login ({status})",
                    remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                    "MLFLOW_TRACKING_TOKEN, in the environment",
                ),
                "",
            )
        if status == _NOT_FOUND:
            return _unreadable(shown, error), ""
        return None, (
            f"the MLflow server at {shown} does not answer; the run starts, and what it logs "
            "waits in the journal until the server does"
        )
    except Exception as error:  # drivers and databases raise their own; all of them mean the same
        return _unreadable(shown, error), ""
    return None, ""


@contextlib.contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Turn a failed connection into an error of one line.

    Raises:
        ConnectionError: the server does not answer.
    """
    try:
        yield
    except MlflowException as error:
        if isinstance(error.__context__, requests.RequestException):
            reason = _why(error.__context__)
            message = f"the MLflow server at {without_login(uri)} does not answer{reason}"
            raise ConnectionError(message) from error
        raise


def _why(error: requests.RequestException) -> str:
    """Return why a server did not answer, where what requests says of it has a name here."""
    if isinstance(error, requests.Timeout):
        return " in time"
    text = str(error)
    reasons = {
        "resolve": ": its name cannot be resolved",
        "refused": ": the connection is refused",
        "CERTIFICATE_VERIFY_FAILED": ": its certificate is not trusted",
    }
    return next((reason for sign, reason in reasons.items() if sign in text), "")


def _unreadable(shown: str, error: Exception) -> Problem:
    text = str(error).strip().splitlines()
    return Problem(
        key=KEY,
        message=f"{shown} cannot be used as an MLflow store: {text[0] if text else error!r}",
        remedy="give the URL of a server or a database such as sqlite:///mlflow.db",
    )


@contextlib.contextmanager
def _hurry() -> Iterator[None]:
    """Have calls fail sooner still, where the user did not say how long they may take."""
    hurried = {name: value for name, value in _PREFLIGHT.items() if name not in os.environ}
    os.environ.update(hurried)
    try:
        yield
    finally:
        for name in hurried:
            del os.environ[name]


@contextlib.contextmanager
def _alone_with(file: Path | None) -> Iterator[None]:
    """Keep other processes from making the tables of the same SQLite file meanwhile."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("a", encoding="ascii") as lock:
        portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE)
        yield
