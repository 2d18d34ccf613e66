"""What a hub answers when it refuses or fails, in words that say what to do; and trying again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from llmforge.errors import DeployError, plain_reason

T = TypeVar("T")

_TRIES = 5
_FIRST_PAUSE_SECONDS = 1.0
_MOVED, _TOO_MANY = 412, 429
_FULL = (402, 413, 507)
_LIMITS = ("quota", "storage limit", "storage space", "exceeded")


def patiently(address: str, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, called again after failures that pass.

    Those are a hub that cannot be reached, an answer of 500 or more, too many requests, and a
    branch that another commit moved meanwhile.

    Raises:
        DeployError: it was refused, or failed each time.
    """
    for number in range(1, _TRIES + 1):
        try:
            return work()
        except (HTTPError, OSError, HFValidationError) as error:
            if number == _TRIES or not _passes(error):
                raise described(address, error) from error
        time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def described(address: str, error: Exception) -> DeployError:
    """Return what an error of the hub's client means to the user."""
    if isinstance(error, OfflineModeIsEnabled):
        return DeployError(
            f"{address}: HF_HUB_OFFLINE forbids asking the hub", remedy="unset HF_HUB_OFFLINE"
        )
    status = _status(error)
    said = _said(error)
    if status == 401:
        return DeployError(
            f"{address}: the hub does not accept the token (401)",
            remedy="make one that may write at the hub's settings page, and set HF_TOKEN or run "
            "'hf auth login'",
        )
    if status in _FULL or (status == 403 and any(word in said.lower() for word in _LIMITS)):
        return DeployError(
            f"{address}: the hub has no more room ({status}): {said}",
            remedy="delete what is not needed there, or deploy fewer bytes (--dtype bf16)",
        )
    if status == 403:
        return DeployError(
            f"{address}: the token may not write there (403){f': {said}' if said else ''}",
            remedy="is the owner's name right, and does the token have the permission to write?",
        )
    if status == 404:
        return DeployError(
            f"{address}: the hub says that it is not there (404)",
            remedy="the name may be taken by a repository that this token may not see",
        )
    if status is not None:
        tried = f", {_TRIES} times" if _passes(error) else ""
        return DeployError(
            f"{address}: the hub answered {status}{tried}{f': {said}' if said else ''}",
            remedy="the same command again continues" if _passes(error) else "",
        )
    if isinstance(error, HFValidationError):
        return DeployError(f"{address}: {said}", remedy="choose another name")
    return DeployError(
        f"{address}: the hub cannot be reached at {endpoint()}: {plain_reason(error)}",
        remedy="check the network, and HF_ENDPOINT, which names another hub; the same command "
        "again continues",
    )


def endpoint() -> str:
    """Return the address of the hub that is asked."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _passes(error: Exception) -> bool:
    if isinstance(error, OfflineModeIsEnabled | HFValidationError):
        return False
    status = _status(error)
    if status is not None:
        return (status >= 500 and status not in _FULL) or status in (_MOVED, _TOO_MANY)
    return isinstance(error, HTTPError | OSError)


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _said(error: Exception) -> str:
    """Return the hub's own words, in one line."""
    text = getattr(error, "server_message", None) or str(error)
    return " ".join(str(text).split())[:300]
