"""Schemathesis asks ``forge serve`` all that its OpenAPI document permits, and what it forbids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from serve_process import ServeProcess, make_chat_run

EXAMPLES = "60"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_request_makes_the_server_fail(tmp_path: Path) -> None:
    make_chat_run(tmp_path)
    program = str(Path(sys.executable).parent / "schemathesis")
    options = ["--checks", "not_a_server_error", "--max-examples", EXAMPLES, "--seed", "7"]
    options += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "60"]
    with ServeProcess(tmp_path, "talk", "--max-tokens", "4") as server:
        done = subprocess.run(
            [program, "run", f"{server.url}/openapi.json", *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=1100,
        )
        metrics = server.metrics()
        requests = {
            name: count
            for name, count in metrics.items()
            if name.startswith("forge_requests_total") and 'path="/v1/' in name
        }
        assert done.returncode == 0, done.stdout[-5000:]
        assert sum(requests.values()) > 300, done.stdout[-5000:]
        assert not [name for name in requests if 'status="5' in name]
        for path in ("completions", "chat/completions"):  # it came past the checks, too
            name = f'forge_requests_total{{method="POST",path="/v1/{path}",status="200"}}'
            assert requests[name] >= 5, done.stdout[-5000:]
