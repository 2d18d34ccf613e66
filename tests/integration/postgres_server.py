"""A PostgreSQL server of the tests' own, in a temporary directory and on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_READY_SECONDS = 30.0


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database, as ``sweep.study`` takes it.

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    begin = ["initdb", "-D", data, "-A", "trust", "-U", "forge", "--no-sync"]
    subprocess.run(begin, user=user, cwd=folder, check=True, capture_output=True)
    serve = ["postgres", "-D", data, "-p", str(port), "-k", str(folder)]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen(serve, user=user, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        _make_database(port)
        yield f"postgresql+psycopg://forge@127.0.0.1:{port}/sweeps"
    finally:
        server.terminate()
        server.wait()
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
