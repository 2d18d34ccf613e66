"""What the pods of ``forge launch k8s`` run: two of them, stopped together and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from forge_process import Workplace, environment
from servers import free_port

PODS = 2


class Pods:
    """The manifest's containers as processes, its recipe as a file, its names as this machine."""

    def __init__(self, path: Path) -> None:
        self.workplace = Workplace(path / "place")
        text = self.workplace.forge_here(
            *("launch", "k8s", "recipe.toml", "--image", "forge", "--claim", "shared"),
            *("--nodes", str(PODS), "--gpus-per-node", "0"),
        )
        found = {body["kind"]: body for body in yaml.safe_load_all(text)}
        recipe = self.workplace.path / "carried.toml"
        recipe.write_text(found["ConfigMap"]["data"]["recipe.toml"], encoding="utf-8")
        (container,) = found["Job"]["spec"]["template"]["spec"]["containers"]
        name = found["Service"]["metadata"]["name"]
        self.shell = container["command"]
        self.script = (
            container["args"][0]
            .replace("/etc/forge/recipe.toml", str(recipe))
            .replace(f"{name}-0.{name}:29500", f"127.0.0.1:{free_port()}")
        )
        forge = path / "bin" / "forge"
        forge.parent.mkdir()
        forge.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmforge "$@"\n')
        forge.chmod(0o755)
        self.environment = {
            **environment(self.workplace),
            "PATH": f"{forge.parent}:{os.environ['PATH']}",
        }

    def start(self) -> list[subprocess.Popen[bytes]]:
        """Start all pods."""
        return [self._start(index) for index in range(PODS)]

    def log(self, index: int) -> str:
        """What a pod has printed."""
        return (self.workplace.path / f"pod-{index}.log").read_text(encoding="utf-8")

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        with (self.workplace.path / f"pod-{index}.log").open("ab") as log:
            return subprocess.Popen(
                [*self.shell, self.script],
                cwd=self.workplace.path,
                env={**self.environment, "JOB_COMPLETION_INDEX": str(index)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@pytest.mark.slow
def test_pods_that_are_told_to_stop_end_with_75_and_their_successors_finish(
    tmp_path: Path,
) -> None:
    pods = Pods(tmp_path)
    place = pods.workplace
    processes = pods.start()
    try:
        while not place.checkpoints:
            assert all(process.poll() is None for process in processes), pods.log(0) + pods.log(1)
            time.sleep(0.02)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process in processes] == [75, 75], pods.log(0)
    assert place.record["state"] == "interrupted"

    processes = pods.start()
    assert [process.wait(timeout=200) for process in processes] == [0, 0], pods.log(0)
    assert (place.record["state"], place.record["step"]) == ("completed", 60)
    assert "x 2 ranks" in pods.log(0)
    assert "x 2 ranks" not in pods.log(1)
