"""``forge serve`` as a process, over a run with a real, untrained transformer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
from generate_parts import RECIPE, make_trained_run

from llmforge.data.chat_template import TEMPLATES
from llmforge.generation import LoadedModel, open_checkpoint

LONG = RECIPE.replace("context = 64", "context = 256")
STARTS = 120.0


class ServeProcess:
    """A server process.

    Args:
        root: directory of all runs.
        run: what is served.
        options: of the command.
        environment: what to add to the environment.
    """

    def __init__(
        self, root: Path, run: str, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-m", "llmforge", "serve", run, "--root", str(root)]
        self._process = subprocess.Popen(
            [*command, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self.lines: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._wait_for(lambda: self.url, what="an address")
        self.key = "none"
        deadline = time.monotonic() + STARTS
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/health", timeout=10)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not answer")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def client(self, **options: Any) -> openai.OpenAI:
        """Return the official client for it."""
        defaults = {"api_key": self.key, "max_retries": 0, "timeout": 120}
        return openai.OpenAI(base_url=f"{self.url}/v1", **{**defaults, **options})

    def memory(self) -> float:
        """Return the memory it has, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def metrics(self) -> dict[str, float]:
        """Return its metrics by name and labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def wait_for_line(self, text: str, seconds: float = 60) -> None:
        """Wait until it says something."""
        self._wait_for(lambda: text in self.log, what=f"'{text}'", seconds=seconds)

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        """Return its exit code once it has ended."""
        code = self._process.wait(seconds)
        self._reader.join(10)
        return code

    def close(self) -> None:
        """End it in any case."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())
            if found := re.search(r"(http://\S+) answers", line):
                self.url = found[1]

    def _wait_for(self, done: Any, *, what: str, seconds: float = STARTS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not say {what}:\n{self.log}")
            time.sleep(0.05)


def make_chat_run(root: Path, name: str = "talk") -> None:
    """Write a run with a chat template."""
    make_trained_run(root, name, recipe=LONG, template=TEMPLATES["alpaca"])


def opened(root: Path, address: str) -> LoadedModel:
    """Return a run's model, to compare with."""
    return open_checkpoint(address, root=root, device="cpu")
