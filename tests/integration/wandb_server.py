"""A stand-in for the W&B service, for tests: it keeps in memory what the real client sends.

It is no W&B server. It speaks as much of the API as the client needs to log a run, resume it and
upload files and artifacts, over plain HTTP: GraphQL by operation name, the file stream of history,
summary and end, and uploads by URL. What it keeps survives :meth:`WandbServer.kill` and
:meth:`WandbServer.start`, as a service's database does.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "local-" + "4" * 40
"""The one API key it knows."""

ENTITY = "us"
"""The entity of who has that key."""


@dataclass
class RemoteRun:
    """What arrived of one run.

    Attributes:
        info: what the client said of it last: ``displayName``, ``notes``, ``tags``, ``groupName``…
        history: rows of the history, as JSON texts; None where none arrived yet.
        files: content of its files by name.
        ends: exit codes, one for each time the client said that the run is complete.
        sessions: how often a client began to log to it.
    """

    entity: str
    project: str
    name: str
    info: dict[str, Any] = field(default_factory=dict)
    history: list[str | None] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    sessions: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the history; a gap fails."""
        assert None not in self.history
        return [json.loads(line) for line in self.history if line is not None]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, without what the client adds of its own."""
        config = json.loads(self.info.get("config") or "{}")
        return {key: item["value"] for key, item in config.items() if key != "_wandb"}


@dataclass
class RemoteArtifact:
    """What arrived of one artifact."""

    name: str
    type: str
    aliases: list[str]
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer:
    """The stand-in, on a port of its own that stays the same from start to start.

    Attributes:
        runs: by their id.
        artifacts: every version that was created, in order.
        requests: method and path of every request, with the operation of a GraphQL one.
        refuses: GraphQL operations, or the word ``file_stream``, that fail with status 500.
    """

    def __init__(self) -> None:
        self.runs: dict[str, RemoteRun] = {}
        self.artifacts: list[RemoteArtifact] = []
        self.requests: list[str] = []
        self.refuses: set[str] = set()
        self.lock = threading.Lock()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that bring a client here."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
        }

    def start(self) -> WandbServer:
        """Begin to answer."""
        self._http = _Http(self)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def kill(self) -> None:
        """Stop answering: connections are cut, new ones are refused."""
        if self._http is not None:
            self._http.shutdown()
            self._http.cut()
            self._http.server_close()
            self._http = None

    def artifact(self, name: str) -> list[RemoteArtifact]:
        """Return the versions of an artifact that are complete."""
        return [item for item in self.artifacts if item.name == name and item.committed]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, service: WandbServer) -> None:
        self.service = service
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", service.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were cut."""

    def cut(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        service, body = self.server.service, self._body()
        operation = ""
        if self.path == "/graphql":
            operation = _operation(body)
        service.requests.append(f"POST {self.path} {operation}".strip())
        if not self._has_the_key():
            self._reply({"errors": [{"message": "user is not logged in"}]}, 401)
        elif operation in service.refuses or self.path.rpartition("/")[2] in service.refuses:
            self._reply({"errors": [{"message": "internal"}]}, 500)
        elif self.path == "/graphql":
            with service.lock:
                answer = _answer(service, operation, body.get("variables") or {})
            self._reply({"data": answer})
        else:
            with service.lock:
                _stream(service, self.path, body)
            self._reply({"exitcode": None, "limits": {}})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        service = self.server.service
        service.requests.append(f"PUT {self.path}")
        _, _, kind, owner, name = self.path.split("/", 4)
        with service.lock:
            if kind == "run":
                service.runs[owner].files[name] = content
            else:
                service.artifacts[int(owner)].files[name] = content
        self._reply({})

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _has_the_key(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(given).decode() == f"api:{KEY}"

    def _reply(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _operation(body: dict[str, Any]) -> str:
    """Return the name of a GraphQL operation, which some clients leave in the text alone."""
    words = str(body["query"]).replace("(", " ").split()
    return str(body.get("operationName") or words[1].strip("{"))


def _stream(service: WandbServer, path: str, body: dict[str, Any]) -> None:
    """Take a request of the file stream: lines go to their offset, as in the real service."""
    run = service.runs[path.split("/")[4]]
    files = body.get("files") or {}
    history = files.get("wandb-history.jsonl")
    if history is not None:
        end = history["offset"] + len(history["content"])
        run.history += [None] * (end - len(run.history))
        run.history[history["offset"] : end] = history["content"]
    summary = files.get("wandb-summary.json")
    if summary is not None:
        run.summary = json.loads(summary["content"][-1])
    if body.get("complete"):
        run.ends.append(int(body["exitcode"]))


def _answer(service: WandbServer, operation: str, given: dict[str, Any]) -> Any:
    answer = _ANSWERS.get(operation)
    return answer(service, given) if answer is not None else {}


def _viewer(service: WandbServer, given: dict[str, Any]) -> Any:
    own = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
    return {"viewer": {**own, "teams": {"edges": []}}}


def _resume_status(service: WandbServer, given: dict[str, Any]) -> Any:
    run = service.runs.get(given["name"])
    if run is None:
        return {"model": None}
    lines = [line for line in run.history if line is not None]
    bucket = {
        "id": run.name,
        "name": run.name,
        "summaryMetrics": json.dumps(run.summary),
        "displayName": run.info.get("displayName"),
        "logLineCount": 0,
        "historyLineCount": len(lines),
        "eventsLineCount": 0,
        "historyTail": json.dumps(lines[-1:]),
        "eventsTail": "[]",
        "config": run.info.get("config"),
        "tags": run.info.get("tags") or [],
        "notes": run.info.get("notes"),
        "wandbConfig": json.dumps({"t": 1}),
    }
    return {"model": {**_project(run), "bucket": bucket}}


def _upsert(service: WandbServer, given: dict[str, Any]) -> Any:
    name = given["name"]
    known = name in service.runs
    if not known:
        entity, project = given.get("entity") or ENTITY, given.get("project") or "uncategorized"
        service.runs[name] = RemoteRun(entity, project, name)
    run = service.runs[name]
    run.sessions += given.get("displayName") is not None
    run.info.update({key: value for key, value in given.items() if value is not None})
    bucket = {
        "id": name,
        "name": name,
        "displayName": run.info.get("displayName") or name,
        "description": None,
        "config": run.info.get("config"),
        "sweepName": None,
        "historyLineCount": len(run.history),
        "project": _project(run),
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": not known}}


def _create_files(service: WandbServer, given: dict[str, Any]) -> Any:
    base = f"{service.url}/upload/run/{given['run']}"
    files = [{"name": name, "uploadUrl": f"{base}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def _run_files(service: WandbServer, given: dict[str, Any]) -> Any:
    files = service.runs[given["name"]].files
    nodes = [
        {"node": {"name": name, "sizeBytes": len(files[name])}}
        for name in given["fileNames"]
        if name in files
    ]
    return {"project": {"run": {"files": {"edges": nodes}}}}


def _artifact_type(service: WandbServer, given: dict[str, Any]) -> Any:
    name = given["name"].partition(":")[0]
    found = [item.type for item in service.artifacts if item.name == name]
    kind = {"artifactType": {"name": found[0]}} if found else None
    return {"project": {"artifact": kind}}


def _create_artifact(service: WandbServer, given: dict[str, Any]) -> Any:
    """Make a new version; content the newest version has already makes none."""
    item = given["input"]
    name = item.get("artifactCollectionName") or item["artifactCollectionNames"][0]
    aliases = [alias["alias"] for alias in item.get("aliases") or ()]
    versions = [found for found in service.artifacts if found.name == name]
    if versions and versions[-1].digest == item["digest"] and versions[-1].committed:
        index, state = service.artifacts.index(versions[-1]), "COMMITTED"
    else:
        for version in versions:
            version.aliases[:] = [alias for alias in version.aliases if alias not in aliases]
        service.artifacts.append(
            RemoteArtifact(name, item["artifactTypeName"], aliases, item["digest"])
        )
        index, state = len(service.artifacts) - 1, "PENDING"
    artifact = {
        "id": str(index),
        "state": state,
        "versionIndex": len(versions),
        "artifactSequence": {"id": name, "latestArtifact": None},
    }
    return {"createArtifact": {"artifact": artifact}}


def _create_manifest(service: WandbServer, given: dict[str, Any]) -> Any:
    owner = given["artifactID"]
    file = {
        "id": owner,
        "name": given["name"],
        "displayName": given["name"],
        "uploadUrl": f"{service.url}/upload/artifact/{owner}/{given['name']}",
        "uploadHeaders": [],
        "artifact": {"id": owner},
    }
    return {"createArtifactManifest": {"artifactManifest": {"id": owner, "file": file}}}


def _create_artifact_files(service: WandbServer, given: dict[str, Any]) -> Any:
    edges = [
        {
            "node": {
                "id": file["name"],
                "name": file["name"],
                "displayName": file["name"],
                "storagePath": file["name"],
                "uploadUrl": f"{service.url}/upload/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
        }
        for file in given["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _commit_artifact(service: WandbServer, given: dict[str, Any]) -> Any:
    artifact = service.artifacts[int(given["artifactID"])]
    artifact.committed = True
    return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": artifact.digest}}}


def _artifact_by_id(service: WandbServer, given: dict[str, Any]) -> Any:
    item = service.artifacts[int(given["id"])]
    project = {"id": "p", "internalId": "p", "name": "p", "entity": {"name": ENTITY}}
    sequence = {"__typename": "ArtifactSequence", "name": item.name, "project": project}
    artifact = {
        "__typename": "Artifact",
        "id": given["id"],
        "artifactSequence": sequence,
        "versionIndex": 0,
        "artifactType": {"name": item.type},
        "description": None,
        "metadata": None,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": sum(map(len, item.files.values())),
        "digest": item.digest,
        "commitHash": "0",
        "fileCount": len(item.files),
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "aliases": [],
    }
    return {"artifact": artifact}


def _project(run: RemoteRun) -> dict[str, Any]:
    entity = {"id": run.entity, "name": run.entity}
    return {"id": run.project, "name": run.project, "entity": entity}


_ANSWERS: dict[str, Callable[[WandbServer, dict[str, Any]], Any]] = {
    "Viewer": _viewer,
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _create_files,
    "RunFiles": _run_files,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_manifest,
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": _commit_artifact,
    "ArtifactByID": _artifact_by_id,
    "FetchArtifactDigestAlgorithm": lambda *_: {"project": None},
    "ServerFeaturesQuery": lambda *_: {"serverInfo": {"features": []}},
}
