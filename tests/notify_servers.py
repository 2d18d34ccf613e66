"""Servers that messages about runs are sent to: a webhook, and a mail server.

The mail server is a stand-in of our own: it speaks the few commands of SMTP (RFC 5321) and its
AUTH PLAIN (RFC 4954) that ``smtplib`` uses here. aiosmtpd would be one more package for a test.
"""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"


@dataclass
class Post:
    """One request: its path, headers and content."""

    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The content as JSON."""
        found: dict[str, Any] = json.loads(self.content)
        return found


class Webhook:
    """An address that messages are posted to; a context manager.

    Args:
        answers: what the first requests get, one after the other: a status, or ``hang``; later
            ones get 200.

    Attributes:
        taken: the requests that were answered with 200.
        refused: how many were not.
    """

    def __init__(self, *answers: int | str) -> None:
        self.taken: list[Post] = []
        self.refused = 0
        waiting = list(answers)
        closing = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                size = int(handler.headers["Content-Length"])
                post = Post(handler.path, dict(handler.headers), handler.rfile.read(size))
                answer = waiting.pop(0) if waiting else 200
                if answer == 200:
                    self.taken.append(post)
                else:
                    self.refused += 1
                if answer == "hang":
                    closing.wait(30)
                    return
                handler.send_response(int(answer))
                if answer == 302:
                    handler.send_header("Location", f"{self.url}elsewhere")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:  # noqa: N805
                """Keep quiet."""

        self._closing = closing
        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Mailbox:
    """What a mail server has taken.

    Attributes:
        letters: in order of arrival.
        logins: (user, password) of each login.
    """

    letters: list[Message] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)


class MailServer:
    """Takes every mail; a context manager.

    Args:
        port: to listen on; 0 for any.
        password: what a login needs; None for any.
    """

    def __init__(self, *, port: int = 0, password: str | None = None) -> None:
        self.box = box = Mailbox()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 here")
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "EHLO":
                        self._say("250-here\r\n250 AUTH PLAIN")
                    elif verb == "AUTH":
                        _, user, given = base64.b64decode(line.split()[2]).decode().split("\0")
                        box.logins.append((user, given))
                        right = password in (None, given)
                        self._say("235 welcome" if right else "535 wrong password")
                    elif verb == "DATA":
                        self._say("354 go on")
                        box.letters.append(message_from_bytes(self._content()))
                        self._say("250 taken")
                    elif verb == "QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say("250 fine")

            def _content(self) -> bytes:
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                return b"".join(lines)

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server((HOST, port), Handler)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> MailServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def wait_until(holds: Callable[[], object], *, seconds: float = 90.0) -> None:
    """Wait until ``holds()`` is true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.05)
