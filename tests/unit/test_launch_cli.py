"""``forge launch``: job files that are sound, and a Slurm script that does what it says."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm_stand_ins import slurm_environment

from llmforge.cli.app import app
from llmforge.errors import RecipeError, UsageError
from llmforge.recipe import identity, load_recipe

RECIPE = """\
extends = "custom_nano"
[run]
id = "My_run"
[train]
batch_size = 16
"""

Launch = Callable[..., str]


@pytest.fixture
def launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Launch:
    """Run ``forge launch`` in a folder with a recipe; return what it printed."""
    monkeypatch.chdir(tmp_path)
    Path("my recipe.toml").write_text(RECIPE, encoding="utf-8")

    def run(kind: str, *arguments: str, recipe: str = "my recipe.toml") -> str:
        monkeypatch.setattr(sys, "argv", ["forge", "launch", kind, recipe, *arguments])
        try:
            app()
        except SystemExit as end:
            assert not end.code, capsys.readouterr()
        return capsys.readouterr().out

    return run


# Slurm ----------------------------------------------------------------------------------------


def test_the_batch_script_asks_for_what_was_wanted(launch: Launch) -> None:
    text = launch(
        "slurm",
        *("--nodes", "2", "--gpus-per-node", "8", "--time", "24:00:00", "--partition", "gpu"),
        *("--cpus-per-task", "12", "--grace", "120", "--setup", "module load cuda"),
        *("--profile", "test", "--set", 'run.notes="two words"', "--set", "train.batch_size=16"),
    )
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert directives == {
        "--job-name=my-run",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=12",
        "--time=24:00:00",
        "--partition=gpu",
        "--output=my-run-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:TERM@120",
    }
    assert "module load cuda" in lines
    command = next(line for line in lines if line.startswith("srun"))
    assert "forge train 'my recipe.toml' --profile test" in command
    assert """--set 'run.notes="two words"'""" in command


def test_without_gpus_each_machine_has_one_process(launch: Launch) -> None:
    text = launch("slurm", "--nodes", "4", "--gpus-per-node", "0")
    assert "#SBATCH --ntasks-per-node=1\n" in text
    assert "gpus" not in text


@pytest.mark.parametrize("checker", [["bash", "-n"], ["shellcheck", "--shell=bash"]])
def test_the_batch_script_is_sound_shell(
    launch: Launch, checker: list[str], tmp_path: Path
) -> None:
    launch("slurm", "--setup", "export A=1", "--output", "job.sh")
    if shutil.which(checker[0]) is None:
        checker = ["bash", "-n"]  # shellcheck is checked where it is installed
    done = subprocess.run([*checker, "job.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """A batch job's environment with stand-ins.

    ``forge`` is a fake too: it ends with the code in ``STAND_IN_CODE``, on SIGTERM with 75 after a
    moment of saving.
    """
    forge = """\
echo "$@" > forge.txt
trap 'sleep 0.3; echo saved >> forge.txt; exit 75' TERM
touch started
for _ in $(seq "${STAND_IN_TENTHS:-0}"); do sleep 0.1; done
exit "${STAND_IN_CODE:-0}"
"""
    return slurm_environment(tmp_path / "bin", {"forge": forge})


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_only_an_interrupted_run_goes_back_into_the_queue(
    launch: Launch, slurm: dict[str, str], code: int
) -> None:
    launch("slurm", "--output", "job.sh", "--set", "train.max_steps=5")
    done = subprocess.run(
        ["bash", "job.sh"], env={**slurm, "STAND_IN_CODE": str(code)}, check=False, timeout=60
    )
    assert done.returncode == code
    assert Path("forge.txt").read_text() == "train my recipe.toml --set train.max_steps=5\n"
    assert "--kill-on-bad-exit=0" in Path("srun.txt").read_text()
    if code == 75:
        assert Path("scontrol.txt").read_text() == "requeue 4711\n"
    else:
        assert not Path("scontrol.txt").exists()


def test_a_signal_to_the_batch_shell_reaches_the_training_and_is_waited_for(
    launch: Launch, slurm: dict[str, str]
) -> None:
    launch("slurm", "--output", "job.sh")
    job = subprocess.Popen(["bash", "job.sh"], env={**slurm, "STAND_IN_TENTHS": "300"})
    until = time.monotonic() + 30
    while not Path("started").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 75
    assert Path("forge.txt").read_text().endswith("saved\n")
    assert Path("scontrol.txt").read_text() == "requeue 4711\n"


# Kubernetes -----------------------------------------------------------------------------------


def documents(text: str) -> dict[str, Any]:
    """Return the documents of a manifest by kind."""
    return {body["kind"]: body for body in yaml.safe_load_all(text)}


def test_the_manifest_is_an_indexed_job_that_comes_back_after_75(launch: Launch) -> None:
    found = documents(
        launch(
            *("k8s", "--image", "registry.example.org/forge:1", "--nodes", "2"),
            *("--gpus-per-node", "4", "--claim", "shared", "--secret", "bucket"),
            *("--grace", "120", "--setup", "nvidia-smi", "--retries", "5"),
        )
    )
    assert [*found] == ["Service", "ConfigMap", "Job"]
    assert {body["metadata"]["name"] for body in found.values()} == {"my-run"}
    spec = found["Job"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 5
    rules = spec["podFailurePolicy"]["rules"]
    assert (rules[0]["action"], rules[0]["onExitCodes"]["values"]) == ("Ignore", [75])
    assert (rules[2]["action"], rules[2]["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["subdomain"]) == ("Never", "my-run")
    assert pod["terminationGracePeriodSeconds"] == 120
    (container,) = pod["containers"]
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    setup, command = container["args"][0].splitlines()
    assert setup == "nvidia-smi"
    assert command == (
        "exec forge train /etc/forge/recipe.toml --nproc-per-node 4 --nnodes 2 "
        '--node-rank "$JOB_COMPLETION_INDEX" --rdzv-endpoint my-run-0.my-run:29500'
    )
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    service = found["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == {"batch.kubernetes.io/job-name": "my-run"}
    assert service["publishNotReadyAddresses"] is True


def test_the_manifest_carries_the_same_run(launch: Launch, tmp_path: Path) -> None:
    text = launch(
        *("k8s", "--image", "forge", "--claim", "shared", "--profile", "test"),
        *("--set", 'run.notes="a # and a \\"quote\\""', "--set", "optimizer.adamw.lr=0.5"),
    )
    carried = tmp_path / "carried.toml"
    carried.write_text(documents(text)["ConfigMap"]["data"]["recipe.toml"], encoding="utf-8")
    given = ['run.notes="a # and a \\"quote\\""', "optimizer.adamw.lr=0.5"]
    own = load_recipe("my recipe.toml", profile="test", overrides=given)
    found = load_recipe(carried)
    assert identity(found) == identity(own)
    assert (found.run.id, found.run.notes) == ("My_run", 'a # and a "quote"')


def test_one_pod_on_the_cpu_needs_no_launcher(launch: Launch) -> None:
    found = documents(
        launch(
            *("k8s", "--image", "forge", "--gpus-per-node", "0"),
            *("--set", 'storage.url="gs://bucket/runs"'),
        )
    )
    pod = found["Job"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["exec forge train /etc/forge/recipe.toml\n"]
    assert "resources" not in pod["containers"][0]
    assert {"name": "home", "emptyDir": {}} in pod["volumes"]


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slurm", "--nodes", "3"), "cannot be divided among 3 processes"),
        (("slurm", "--job-name", "My Job"), "'My Job' is not a valid job name"),
        (("slurm", "--output", "my recipe.toml"), "my recipe.toml exists"),
        (("slurm", "--output", "no/where.sh"), "cannot be written"),
        (("k8s", "--image", "x"), "checkpoints would end with their pod"),
        (
            ("k8s", "--image", "x", "--nodes", "2", "--set", 'storage.url="gs://b/r"'),
            "2 pods need one run directory",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    launch: Launch, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        launch(*arguments)
    assert message in str(caught.value)


def test_an_unsound_recipe_is_refused_before_it_waits_in_a_queue(launch: Launch) -> None:
    with pytest.raises(RecipeError, match=r"train\.max_step"):
        launch("slurm", "--set", "train.max_step=5")
