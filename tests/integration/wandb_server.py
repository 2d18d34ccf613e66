"""A stand-in for the W&B service, for tests: it keeps in memory what the real client sends.

It is no W&B server. It speaks as much of the API as the client needs to log a run, resume it and
upload files and artifacts, over plain HTTP: GraphQL by operation name, the file stream of history,
summary and end, and uploads by URL. What it keeps survives :meth:`WandbServer.kill` and
:meth:`WandbServer.start`, as a service's database does.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from wandb_answers import ANSWERS
from wandb_kept import ENTITY, KEY, RemoteArtifact, RemoteRun

__all__ = ["ENTITY", "KEY", "RemoteArtifact", "RemoteRun", "WandbServer"]


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
        _, _, kind, owner, name = unquote(self.path).split("/", 4)
        with service.lock:
            if kind == "run":
                service.runs[owner].files[name] = content
            else:
                service.artifacts[int(owner)].files[name] = content
        self._reply({})

    def do_GET(self) -> None:
        """Hand out a file that was uploaded before."""
        service = self.server.service
        service.requests.append(f"GET {self.path}")
        _, _, kind, owner, name = unquote(self.path).split("/", 4)
        assert kind == "artifact", self.path
        content = service.artifacts[int(owner)].files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

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
    if name := body.get("operationName"):
        return str(name)
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", str(body["query"]))
    return found[1] if found else ""


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
    answer = ANSWERS.get(operation)
    return answer(service, given) if answer is not None else {}
