"""``forge doctor`` on a sound machine and on machines that are broken, one way each."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from broken_machine import (
    CAN_MOUNT,
    SECRET,
    Report,
    block_imports,
    examine,
    install,
    pci_with_gpu,
    stand_in,
)
from forge_process import Workplace
from servers import HOST, free_port

BROKEN_PLUGIN = """\
[llmforge.trackers]
shouter = shouting:Shouter

[llmforge.commands]
shout = shouting:app
"""


class _Yesterday(BaseHTTPRequestHandler):
    """A service whose clock is wrong."""

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        return None


@pytest.fixture(scope="module")
def late_service() -> Iterator[str]:
    server = HTTPServer((HOST, 0), _Yesterday)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def dead_service() -> str:
    return f"http://{HOST}:{free_port()}"


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory, late_service: str, dead_service: str
) -> Report:
    """One process whose environment is broken in all ways that do not hide each other."""
    place = tmp_path_factory.mktemp("broken")
    path = place / "path"
    path.mkdir()
    (path / "shouting.py").write_text('raise RuntimeError("no voice")\n')
    install(path, "shouting", "0.3", entry_points=BROKEN_PLUGIN)
    install(path, "sacrebleu", "0.1")
    # a stand-in for NVIDIA's program where its driver finds no GPU
    stand_in(path, "nvidia-smi", "echo 'NVIDIA-SMI has failed: no devices were found'; exit 9")
    (place / "runs").write_text("in the way")
    (place / "aws").write_text(f"aws_secret_access_key = {SECRET}\n")
    (place / ".env").write_text(f"WANDB_API_KEY={SECRET}\n")
    return examine(
        place,
        "--no-training",
        variables={
            "FORGE_OFFLINE": "0",
            "PYTHONPATH": block_imports(path, "s3fs", "portalocker"),
            "PATH": f"{path}:/usr/bin:/bin",
            "ATEN_CPU_CAPABILITY": "default",
            "AWS_SHARED_CREDENTIALS_FILE": str(place / "aws"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(place / "no such file"),
            "HF_ENDPOINT": dead_service,
            "MLFLOW_TRACKING_URI": dead_service,
            "WANDB_BASE_URL": late_service,
        },
        limits={resource.RLIMIT_NOFILE: 100},
    )


def test_a_sound_machine_has_no_problem_and_trains_and_keeps_nothing(tmp_path: Path) -> None:
    sound = examine(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (sound.code, sound.problems) == (0, set()), sound.text
    training = sound.one("training.steps")
    assert training["status"] == "ok"
    assert "resumed from the checkpoint of step 12" in training["message"]


@pytest.mark.parametrize(
    ("check", "message", "remedy"),
    [
        ("packages.required", "portalocker", "pip install --force-reinstall 'portalocker>="),
        ("packages.versions", "sacrebleu 0.1", "pip install --upgrade 'sacrebleu<3,>=2.4'"),
        ("plugins.missing", "s3fs is not installed, which storage s3 needs", "pip install 's3fs>="),
        ("plugins.imports", "no voice", "pip install --upgrade shouting"),
        ("torch.kernels", "ATEN_CPU_CAPABILITY=default", "unset ATEN_CPU_CAPABILITY"),
        ("machine.files", "100 files", "ulimit -n"),
        ("credentials.files", "aws: it is not in their format", "aws configure"),
        ("credentials.files", "a file that does not exist", "gcloud auth"),
        ("credentials.variables", "WANDB_API_KEY", ""),
        ("network.answers", "the Hugging Face hub", "HF_ENDPOINT"),
        ("network.answers", "the MLflow server", "MLFLOW_TRACKING_URI"),
        ("network.clock", "ahead of that of W&B", "timedatectl"),
    ],
)
def test_each_fault_is_found_with_its_remedy(
    broken: Report, check: str, message: str, remedy: str
) -> None:
    found = [one for one in broken.of(check) if message in one["message"]]
    assert found, broken.text
    assert remedy in found[0]["remedy"]


def test_a_driver_without_a_gpu_is_a_problem(broken: Report) -> None:
    (found,) = [one for one in broken.body["findings"] if one["group"] == "gpu"]
    assert found["status"] == "problem"
    assert "driver is installed" in found["message"]


def test_a_check_that_breaks_off_costs_no_other(broken: Report) -> None:
    """Without portalocker, locks of the run root cannot be tried."""
    assert "portalocker is blocked" in broken.one("disk.check")["message"]
    assert broken.code == 1


def test_no_secret_is_shown(broken: Report) -> None:
    origins = [found["message"] for found in broken.of("credentials.variables")]
    assert any(text.endswith(".env: WANDB_API_KEY") for text in origins)
    assert SECRET not in broken.text


def test_pytorch_that_cannot_be_imported_is_a_problem_and_the_rest_is_checked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "path"
    path.mkdir()
    blocked = block_imports(path, "torch")
    found = examine(tmp_path, "--no-training", variables={"PYTHONPATH": blocked})
    assert found.code == 1
    assert found.problems == {"torch.import", "packages.required"}
    assert found.one("disk.runs")["status"] == "ok"


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_fails_the_training(tmp_path: Path) -> None:
    found = examine(tmp_path, limits={resource.RLIMIT_FSIZE: 300_000})
    assert found.code == 1
    assert found.one("disk.runs")["status"] == "problem"
    assert "could not be trained" in found.one("training.steps")["message"]


@pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of one's own are allowed here")
def test_file_systems_that_are_full_read_only_or_small_a_quota_and_a_gpu_on_the_bus(
    tmp_path: Path,
) -> None:
    runs, cache = tmp_path / "runs", tmp_path / "cache"
    bus = pci_with_gpu(tmp_path / "pci")  # a stand-in: no such GPU is here
    group = tmp_path / "group"  # a stand-in for the control group of a container
    for folder in (runs, cache, group):
        folder.mkdir()
    (group / "cpu.max").write_text("100000 100000\n")
    found = examine(
        tmp_path,
        "--no-training",
        variables={"OMP_NUM_THREADS": "2"},
        mounts=[
            f"mount -t tmpfs -o size=1m tmpfs '{runs}'",
            f"mount -t tmpfs -o ro tmpfs '{cache}'",
            "mount -t tmpfs -o size=64m tmpfs /dev/shm",
            f"mount --bind '{bus}' /sys/bus/pci/devices",
            f"mount --bind '{group}' /sys/fs/cgroup",
        ],
    )
    assert "No space left" in found.one("disk.runs")["message"]
    assert "Read-only file system" in found.one("disk.cache")["message"]
    assert found.one("machine.shm")["status"] == "warning"
    assert "2 threads for 1 core" in found.one("torch.threads")["message"]
    assert "build for CPUs only" in found.one("gpu.build")["message"]
    assert found.problems == {"disk.runs", "disk.cache", "gpu.build"}


def test_a_setting_that_makes_no_sense_is_one_problem(workplace: Workplace) -> None:
    (workplace.path / ".env").write_text("FORGE_OFFLINE=perhaps\n")
    workplace.environment = {"FORGE_OFFLINE": "perhaps"}
    output = workplace.forge_here("doctor", "--no-training", expect=1)
    assert "FORGE_OFFLINE = 'perhaps'" in output
    assert "1 problem," in output


def test_only_what_a_recipe_needs_is_a_problem(workplace: Workplace, tmp_path: Path) -> None:
    path = tmp_path / "path"
    path.mkdir()
    (path / "shouting.py").write_text('raise RuntimeError("no voice")\n')
    install(path, "shouting", "0.3", entry_points=BROKEN_PLUGIN)
    workplace.environment = {"PYTHONPATH": str(path)}
    assert "2 problems" in workplace.forge_here("doctor", "--no-training", expect=1)
    output = workplace.forge_here("doctor", "recipe.toml", "--no-training")
    assert "0 problems" in output
    assert "warning  tracker 'shouter'" in output
    assert "ready to train as tiny" in output


def test_what_a_recipe_lacks_is_a_problem(workplace: Workplace, aws: pytest.MonkeyPatch) -> None:
    dead = f"http://{HOST}:{free_port()}"
    storage = ("--set", "storage.url=s3://bucket/runs", "--set", f"storage.s3.endpoint_url={dead}")
    tracker = ("--set", "tracker.names=['wandb']")
    aws.delenv("WANDB_API_KEY", raising=False)
    workplace.environment = {"FORGE_OFFLINE": "0", "HF_ENDPOINT": dead}
    printed = workplace.forge_here(
        "doctor", "recipe.toml", "--no-training", "--json", *storage, *tracker, expect=1
    )
    body = json.loads(printed[printed.index("{") :])
    found = {one["check"]: one for one in body["findings"] if one["status"] == "problem"}
    assert set(found) == {"recipe.problem", "network.storage"}
    assert "no W&B API key was found" in found["recipe.problem"]["message"]
    assert "s3://bucket/runs cannot be used" in found["network.storage"]["message"]


def test_a_recipe_that_is_wrong_is_a_problem_like_others(workplace: Workplace) -> None:
    output = workplace.forge_here(
        "doctor", "recipe.toml", "--set", "train.max_stepz=3", "--no-training", expect=1
    )
    assert "max_stepz" in output
    assert "PyTorch" in output
