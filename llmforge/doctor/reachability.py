"""The network: whether services answer, asked side by side and for a few seconds each."""

from __future__ import annotations

import email.utils
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from llmforge.component import importable
from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.errors import ForgeError
from llmforge.interfaces import public_url
from llmforge.recipe import Recipe

ANSWER_SECONDS = 3.0
_STORAGE_SECONDS = 10.0
_SKEW_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """A place on the network.

    Attributes:
        name: for people.
        url: that is asked for its headers.
        without: what happens while it does not answer.
        remedy: what to do besides mending the network.
    """

    name: str
    url: str
    without: str
    remedy: str


class Question:
    """One service, being asked in a thread of its own, which nobody waits for beyond its time."""

    def __init__(self, name: str, ask: Callable[[], Sequence[Finding]], *, seconds: float) -> None:
        self._name = name
        self._ask = ask
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._found: Sequence[Finding] | None = None
        self._thread = threading.Thread(target=self._work, name=f"ask-{name}", daemon=True)
        self._thread.start()

    def answer(self) -> Sequence[Finding]:
        """Return what was found, at the latest when its time is over."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._found is not None:
            return self._found
        message = f"{self._name} did not answer within {self._seconds:.0f} s"
        return [
            warning("network.answers", message, remedy="check the network, a proxy, a firewall")
        ]

    def _work(self) -> None:
        try:
            self._found = self._ask()
        except Exception as error:  # a client may raise anything; it is reported
            message = f"{self._name} could not be asked: {type(error).__name__}: {error}"
            self._found = [warning("network.answers", message, remedy="check the network")]


def ask_network(recipe: Recipe | None, *, offline: bool) -> list[Question]:
    """Start asking every service that is configured, and the storage of ``recipe``."""
    questions = []
    if not offline:
        questions = [
            Question(service.name, partial(_asked, service), seconds=2 * ANSWER_SECONDS)
            for service in services()
        ]
    url = None if recipe is None else recipe.storage.url
    local = url is not None and url.partition("://")[0] in ("file", "memory", "local")
    if recipe is not None and url is not None and (local or not offline):
        ask = partial(_storage, recipe)
        questions.append(Question(public_url(url), ask, seconds=_STORAGE_SECONDS))
    return questions


def answers(questions: Sequence[Question], *, offline: bool) -> Iterator[Finding]:
    """Yield what the services answered."""
    if offline:
        yield ok("network.offline", "FORGE_OFFLINE is set: nothing on the network was asked")
    for question in questions:
        yield from question.answer()


def services() -> list[Service]:
    """Return the services that this environment is set up for."""
    found = [
        Service(
            "the Hugging Face hub",
            os.environ.get("HF_ENDPOINT") or "https://huggingface.co",
            "models and datasets that are not cached cannot be downloaded",
            "point HF_ENDPOINT at a mirror, or set FORGE_OFFLINE=1 to use what is cached",
        )
    ]
    if importable("wandb") and (
        os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL")
    ):
        found.append(
            Service(
                "W&B",
                os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai",
                "runs start, and what they log waits for it",
                'set tracker.wandb.mode = "offline", or deliver later: forge runs sync RUN',
            )
        )
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        found.append(
            Service(
                "the MLflow server",
                uri,
                "runs start, and what they log waits for it",
                "start the server, or correct MLFLOW_TRACKING_URI; later: forge runs sync RUN",
            )
        )
    return found


def _asked(service: Service) -> list[Finding]:
    shown = f"{service.name} ({public_url(service.url)})"
    request = urllib.request.Request(service.url, method="HEAD")
    start = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            headers, status = answer.headers, answer.status
    except urllib.error.HTTPError as error:  # it answers; to whom and what is another question
        headers, status = error.headers, error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = f"check the address and the network; {service.remedy}"
        if isinstance(reason, ssl.SSLError):
            remedy = "set SSL_CERT_FILE to the certificates of your network, if it has its own"
        message = f"{shown} does not answer: {reason}; {service.without}"
        return [warning("network.answers", message, remedy=remedy)]
    if status >= 500:
        message = f"{shown} answers with error {status}; {service.without}"
        return [warning("network.answers", message, remedy=service.remedy)]
    milliseconds = (time.monotonic() - start) * 1000
    found = [ok("network.answers", f"{shown} answers in {milliseconds:.0f} ms")]
    return found + _skew(headers.get("Date"), service.name)


def _skew(date: str | None, name: str) -> list[Finding]:
    """Return a warning where the clock here is far from that of a service."""
    try:
        there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return []
    skew = time.time() - there
    if abs(skew) < _SKEW_SECONDS:
        return []
    word = "ahead of" if skew > 0 else "behind"
    return [
        warning(
            "network.clock",
            f"the clock here is {abs(skew):.0f} s {word} that of {name}: storage refuses requests "
            "signed at a wrong time",
            remedy="let the system set its clock: timedatectl set-ntp true",
        )
    ]


def _storage(recipe: Recipe) -> list[Finding]:
    """Return whether the storage of ``recipe`` can be listed."""
    from llmforge.options import plain
    from llmforge.remote import open_storage

    url = recipe.storage.url
    assert url is not None
    start = time.monotonic()
    remedy = "check storage.url, the network and the credentials"
    try:
        place = open_storage(url, plain(recipe.selected("storage").options))
        try:
            place.folders("")
        except FileNotFoundError:  # nothing there yet, as before the first run
            pass
        except Exception as error:
            return [_storage_failure(url, str(error), place.remedy(error) or remedy)]
    except ForgeError as error:
        return [_storage_failure(url, error.message, error.remedy or remedy)]
    milliseconds = (time.monotonic() - start) * 1000
    return [ok("network.storage", f"storage {public_url(url)} answers in {milliseconds:.0f} ms")]


def _storage_failure(url: str, reason: str, remedy: str) -> Finding:
    message = f"storage {public_url(url)} cannot be used: {reason}"
    return problem("network.storage", message, remedy=remedy)
