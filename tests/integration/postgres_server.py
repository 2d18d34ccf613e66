"""A PostgreSQL server of the tests' own, in a temporary directory and on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_READY_SECONDS = 30.0


class Postgres:
    """A server that can be made to crash and to come back.

    Attributes:
        url: of an empty database, as ``sweep.study`` takes it.
    """

    def __init__(self, folder: Path, *, user: str | None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"postgresql+psycopg://forge@127.0.0.1:{port}/sweeps"
        self._port, self._folder, self._user = port, folder, user
        begin = ["initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "forge", "--no-sync"]
        subprocess.run(begin, user=user, cwd=folder, check=True, capture_output=True)
        self.start()
        _make_database(port)

    def start(self) -> None:
        """Start the server; it answers a moment later."""
        serve = ["postgres", "-D", str(self._folder / "data"), "-p", str(self._port)]
        serve += ["-k", str(self._folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self._server = subprocess.Popen(
            serve, user=self._user, cwd=self._folder, stderr=subprocess.DEVNULL
        )

    def crash(self) -> None:
        """End the server at once, with every connection; what was committed is kept."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Give a server of one's own.

    The server refuses to be root; then it runs as the user ``postgres`` that its package makes.

    Raises:
        RuntimeError: PostgreSQL is not installed.
    """
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in programs:
        raise RuntimeError("these tests need PostgreSQL's server: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    # directly below /tmp: pytest's own folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="forge-postgres-"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = Postgres(folder, user=user)
    try:
        yield server
    finally:
        server.crash()
        shutil.rmtree(folder, ignore_errors=True)


def _make_database(port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            address = f"host=127.0.0.1 port={port} user=forge dbname=postgres"
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("CREATE DATABASE sweeps")
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
