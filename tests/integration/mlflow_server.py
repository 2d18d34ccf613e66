"""A real MLflow server over SQLite; tests kill it and start it again on the same data."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from mlflow import MlflowClient

START_SECONDS = 60.0


class MlflowServer:
    """One server with its store in ``directory``, in a process group of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> MlflowClient:
        """A client that gives up soon."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def start(self) -> MlflowServer:
        """Start it and wait until it answers."""
        artifacts = self._directory / "artifacts"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1", "--serve-artifacts"),
            *("--backend-store-uri", f"sqlite:///{self._directory / 'mlflow.db'}"),
            *("--artifacts-destination", str(artifacts)),
        ]
        quiet = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env={**os.environ, **quiet},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self._directory / "server.log").read_text(errors="replace")
                raise AssertionError(f"the MLflow server does not start\n{text[-2000:]}")
            time.sleep(0.1)
        return self

    def answers(self) -> bool:
        """Return whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it with all its workers, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@functools.cache
def shared_server() -> MlflowServer:
    """Return the one server of this test session; whoever kills it starts it again."""
    directory = tempfile.TemporaryDirectory(prefix="mlflow-server-")
    server = MlflowServer(Path(directory.name))
    atexit.register(directory.cleanup)
    atexit.register(server.kill)
    return server.start()
