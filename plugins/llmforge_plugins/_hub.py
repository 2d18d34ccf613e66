"""One file from the Hugging Face hub, without the hub's minute of retries when there is no network.

Run as a script it downloads, in a process that can be ended at once.

Shared by the kinds ``data`` and ``tokenizer``. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and
``HF_HUB_OFFLINE`` mean what they mean to ``huggingface_hub``.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from llmforge.errors import plain_reason
from llmforge_plugins._child import child

_COMMIT = re.compile(r"[0-9a-f]{40}")


class UnreachableError(Exception):
    """The hub did not answer, or may not be asked; the message says why."""


class MissingError(Exception):
    """The hub answered that there is no such file, revision or repository."""


def fetch(
    repository: str,
    name: str,
    *,
    revision: str,
    kind: Literal["model", "dataset"],
    offline: bool,
    timeout: float,
) -> Path:
    """Return the local path of one file of a repository, downloaded when it is not in HF's cache.

    A file of a pinned commit that is in the cache needs no network; one of a branch or tag is
    looked up when the hub is reachable.

    Args:
        repository: for example ``Salesforce/wikitext``.
        name: the file's path in the repository.
        revision: branch, tag or commit.
        kind: what the repository holds.
        offline: ask nobody.
        timeout: seconds after which a hub that has not answered counts as unreachable.

    Raises:
        UnreachableError: the file is not cached and the hub cannot be asked.
        MissingError: the hub does not have it.
    """
    cached = huggingface_hub.try_to_load_from_cache(
        repository, name, revision=revision, repo_type=kind
    )
    if isinstance(cached, str) and _COMMIT.fullmatch(revision):
        return Path(cached)
    reason = _why_unreachable(repository, name, revision, kind, offline, timeout)
    if reason is None:
        return _download(repository, name, revision, kind)
    if isinstance(cached, str):
        return Path(cached)
    raise UnreachableError(reason)


def main() -> dict[str, str]:
    """Be the process that downloads one file, named by ``sys.argv``; return what happened.

    That is ``{"path": …}`` or ``{"missing": …}`` or ``{"unreachable": …}``.
    """
    repository, name, revision, kind = sys.argv[1:]
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision, repo_type=kind)
    except LocalEntryNotFoundError as error:
        return {"unreachable": str(error.__cause__ or error)}
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        return {"missing": str(error).strip().splitlines()[0]}
    except Exception as error:  # HTTP and TLS libraries have no common base
        return {"unreachable": f"{type(error).__name__}: {error}"}
    return {"path": str(path)}


def _why_unreachable(
    repository: str, name: str, revision: str, kind: str, offline: bool, timeout: float
) -> str | None:
    if offline or constants.HF_HUB_OFFLINE:
        return "offline mode is on (FORGE_OFFLINE or HF_HUB_OFFLINE is set)"
    url = huggingface_hub.hf_hub_url(repository, name, revision=revision, repo_type=kind)
    return _probe(url, timeout)


def _probe(url: str, timeout: float) -> str | None:
    """Return why the server behind ``url`` does not answer within ``timeout``, or None."""
    future: Future[str | None] = Future()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=timeout):
                future.set_result(None)
        except urllib.error.HTTPError as error:
            # A refusal is an answer; the download will say more about it.
            future.set_result(f"HTTP {error.code}" if error.code >= 500 else None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            known = isinstance(reason, BaseException)
            future.set_result(plain_reason(reason) if known else str(reason))

    # Looking up a name has no time limit of its own; hence the thread.
    Thread(target=ask, daemon=True).start()
    wait([future], timeout=timeout)
    return future.result() if future.done() else f"no answer within {timeout:g} s"


def _download(repository: str, name: str, revision: str, kind: str) -> Path:
    with child(Path(__file__), repository, name, revision, kind) as worker:
        code, output = worker.result()
    answer = json.loads(output) if code == 0 else {"unreachable": f"the download ended with {code}"}
    if "missing" in answer:
        raise MissingError(answer["missing"])
    if "unreachable" in answer:
        raise UnreachableError(answer["unreachable"])
    return Path(answer["path"])


if __name__ == "__main__":
    print(json.dumps(main()))
