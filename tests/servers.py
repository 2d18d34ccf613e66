"""Real servers for the tests, each a process of its own on a free port, and faults on the way."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


class Server:
    """A server process that can be killed and started again at the same port.

    Args:
        command: the command line for a port.
        ready: the path that answers once it is up.
        log: receives its output, and what it was asked.
        environment: what to add to the environment.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        ready: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._command = command
        self._ready = ready
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 60.0) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(self._command(self.port)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
        until = time.monotonic() + seconds
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                self.kill()
                raise RuntimeError(f"no server at {self.url}: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and its children with SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{self._ready}", timeout=2) as answer:
                return int(answer.status) < 500
        except OSError:
            return False


def s3_server(log: Path) -> Server:
    """Return an S3 server that keeps everything in memory; not started."""
    return Server(
        lambda port: [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        ready="/moto-api/data.json",
        log=log,
    )


def make_s3_bucket(server: Server, name: str) -> None:
    """Create a bucket on a server of :func:`s3_server`."""
    request = urllib.request.Request(f"{server.url}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=20).close()


def gcs_server(log: Path, *, bucket: str, keep: Path | None = None) -> Server:
    """Return an emulator of Google Cloud Storage with one bucket; not started.

    It keeps its objects in the directory ``keep``, or in memory.
    """
    arguments = ["--host", HOST, f"--default-bucket={bucket}"]
    if keep is None:
        arguments.append("--in-memory")
    script = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    return Server(
        lambda port: [sys.executable, script, "start", *arguments, "--port", str(port)],
        ready="/storage/v1/b",
        log=log,
        environment={} if keep is None else {"STORAGE_BASE": str(keep)},
    )


@dataclass
class Seen:
    """One request as it reached the proxy."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Faults:
    """How often a request suffers what; each rate from 0 to 1, together at most 1.

    ``error`` answers 503 without asking the server, ``cut`` closes the connection before it is
    asked, ``lost`` asks it and closes instead of handing on the answer, ``stall`` is silent for a
    while and then closes, ``alter`` changes the last byte on the way there.
    """

    error: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    stall: float = 0.0
    alter: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def __call__(self, request: Seen) -> str:
        """Return what befalls ``request``, or nothing."""
        del request
        drawn = self.random.random()
        for name in ("error", "cut", "lost", "stall", "alter"):
            drawn -= getattr(self, name)
            if drawn < 0:
                return name
        return ""


class FaultProxy:
    """A fake network for faults only: an HTTP proxy in front of a real server.

    Attributes:
        url: where clients connect to.
        faults: returns what befalls a request: the name of a rate in :class:`Faults`, ``exists``
            for the answer to a condition that does not hold, or nothing; may be replaced at any
            time.
        stall_seconds: how long a stall lasts.
        seen: every request, in the order of arrival.
        suffered: the faults that were injected, by name.
    """

    def __init__(self, server: Server) -> None:
        self.faults: Callable[[Seen], str] = Faults()
        self.stall_seconds = 30.0
        self.seen: list[Seen] = []
        self.suffered: list[str] = []
        self.closing = threading.Event()
        self.upstream = (HOST, server.port)
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer((HOST, 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _any(self) -> None:
        body = self._body()
        request = Seen(self.command, self.path, dict(self.headers))
        self.proxy.seen.append(request)
        fault = self.proxy.faults(request)
        if fault == "exists":
            content = b"<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>"
            self._answer(412, {"Content-Type": "application/xml"}, content)
            return
        if fault:
            self.proxy.suffered.append(fault)
        if fault == "error":
            self._answer(503, {"Content-Type": "text/plain"}, b"slow down")
        elif fault == "cut":
            self._close()
        elif fault == "stall":
            self.proxy.closing.wait(self.proxy.stall_seconds)
            self._close()
        else:
            if fault == "alter" and body:
                body = body[:-1] + bytes([body[-1] ^ 1])
            self._forward(body, lost=fault == "lost")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes, *, lost: bool) -> None:
        dropped = {"transfer-encoding", "content-length", "expect", "connection"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        except OSError:  # the server is down
            self._close()
            return
        finally:
            connection.close()
        if lost:
            self._close()
        else:
            self._answer(answer.status, kept, content, length=length)

    def _answer(
        self, status: int, headers: Mapping[str, str], content: bytes, *, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _close(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
