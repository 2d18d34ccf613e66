"""What the W&B service says of a login and of a run, asked directly and in bounded time.

The client package queues what it is given and does not tell what arrived, so the service is asked:
the queries are those the client itself makes to resume a run and to list its files.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge import Problem, credential

KEY = "WANDB_API_KEY"
URL = "WANDB_BASE_URL"
SECONDS = 4.0
_FILES_AT_ONCE = 100

_VIEWER = "query Viewer { viewer { id entity } }"
_TAIL = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail }
  }
}"""
_FILES = """query RunFiles($project: String!, $entity: String!, $name: String!, \
$fileNames: [String] = []) {
  project(name: $project, entityName: $entity) {
    run(name: $name) { files(names: $fileNames, first: 100) { edges { node { name sizeBytes } } } }
  }
}"""


class LoginRefused(Exception):
    """The service does not accept the API key."""


@dataclass(frozen=True)
class Tail:
    """The end of a run's history: the last step, and the names logged at it."""

    step: int = -1
    names: frozenset[str] = frozenset()

    def has(self, name: str, step: int) -> bool:
        """Return whether ``name`` at ``step`` is part of the history up to here."""
        return step < self.step or (step == self.step and name in self.names)


def tail_of(row: Mapping[str, Any]) -> Tail:
    """Return the tail for a history whose last row is ``row``."""
    return Tail(int(row["_step"]), frozenset(row))


@dataclass(frozen=True)
class Service:
    """The W&B service with the key of this process."""

    url: str
    key: str

    def viewer(self) -> Mapping[str, Any]:
        """Return who the key belongs to.

        Raises:
            LoginRefused: nobody.
            OSError: no answer.
        """
        found = self._ask("Viewer", _VIEWER).get("viewer")
        if not found:
            raise LoginRefused(f"{self.url} knows nobody with this key")
        answer: Mapping[str, Any] = found
        return answer

    def tail(self, *, entity: str | None, project: str, run: str) -> Tail:
        """Return the end of a run's history, as it is in the service."""
        answer = self._ask("RunResumeStatus", _TAIL, entity=entity, project=project, name=run)
        bucket = (answer.get("model") or {}).get("bucket") or {}
        rows = [json.loads(line) for line in json.loads(bucket.get("historyTail") or "[]")]
        return tail_of(rows[-1]) if rows else Tail()

    def missing(self, sizes: Mapping[str, int], *, entity: str, project: str, run: str) -> set[str]:
        """Return which of these files are not in the service with their sizes."""
        found: dict[str, int] = {}
        names = sorted(sizes)
        for start in range(0, len(names), _FILES_AT_ONCE):
            some = names[start : start + _FILES_AT_ONCE]
            answer = self._ask(
                "RunFiles", _FILES, entity=entity, project=project, name=run, fileNames=some
            )
            edges = ((answer.get("project") or {}).get("run") or {}).get("files", {})
            for edge in edges.get("edges", ()):
                found[edge["node"]["name"]] = int(edge["node"]["sizeBytes"])
        return {name for name in names if found.get(name) != sizes[name]}

    def _ask(self, operation: str, query: str, **variables: Any) -> dict[str, Any]:
        body = {"operationName": operation, "query": query, "variables": variables}
        login = base64.b64encode(f"api:{self.key}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/graphql",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                content: dict[str, Any] = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise LoginRefused(f"{self.url} refuses the key: {error}") from None
            raise ConnectionError(f"{self.url} answers {error}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{self.url} does not answer: {reason}") from None
        if content.get("data") is None:
            raise ConnectionError(f"{self.url} answers {operation} with {content.get('errors')}")
        data: dict[str, Any] = content["data"]
        return data


def service() -> Service | None:
    """Return the service, None without a key."""
    import wandb

    key, url = credential(KEY), credential(URL) or wandb.Settings().base_url
    return Service(url.rstrip("/"), key) if key else None


def login_problems(name: str, *, notice: Callable[[str], None]) -> list[Problem]:
    """Return what is wrong with the login; a service that does not answer is only noted."""
    key = f"tracker.{name}"
    other = f'or set {key}.mode = "offline"'
    found = service()
    if found is None:
        return [
            Problem(
                key=key,
                message="no W&B API key was found",
                remedy=f"set {KEY} in the environment or in .env, {other}",
            )
        ]
    try:
        found.viewer()
    except LoginRefused as error:
        return [Problem(key=key, message=str(error), remedy=f"check {KEY} and {URL}, {other}")]
    except ConnectionError as error:
        notice(f"W&B: {error}; the run continues, its events wait in the journal")
    return []
