"""The checks of ``forge doctor`` on systems that are not this one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from llmforge.doctor import disks, gpus, packages, torch_build
from llmforge.doctor.finding import Finding, problem
from llmforge.doctor.gpus import Nvidia, unusable
from llmforge.doctor.host import Host
from llmforge.doctor.machine import usable_cores
from llmforge.doctor.reachability import Question
from llmforge.doctor.training import judged
from llmforge.run.setup import kernel_choices

_WORKS = Nvidia(1, ("NVIDIA L4",), "560.35", "")


def system(root: Path, **files: str) -> Host:
    """Return a system with these files, ``__`` standing for ``/``."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Host(root)


def test_a_problem_of_what_a_recipe_does_not_need_is_a_warning() -> None:
    found = problem("plugins.imports", "broken", remedy="mend it", concerns="tracker:wandb")
    assert found.weighed(None).status == "problem"
    assert found.weighed(frozenset({"tracker:wandb"})).status == "problem"
    assert found.weighed(frozenset({"tracker:csv"})).status == "warning"


def test_what_concerns_every_run_stays_a_problem() -> None:
    found = problem("disk.runs", "full", remedy="free some space")
    assert found.weighed(frozenset()).status == "problem"


@pytest.mark.parametrize(
    "files",
    [
        {"sys__fs__cgroup__cpu.max": "150000 100000", "proc__self__cgroup": "0::/"},
        {"sys__fs__cgroup__a__cpu.max": "150000 100000", "proc__self__cgroup": "0::/a/b"},
        {
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "150000",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000",
            "proc__self__cgroup": "4:cpu,cpuacct:/docker/1",
        },
    ],
)
def test_a_quota_of_the_control_group_limits_the_cores(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    host = system(tmp_path, **files)
    assert host.cpu_quota() == 1.5
    assert usable_cores(host) == 2


def test_a_system_without_limits_has_none(tmp_path: Path) -> None:
    host = system(tmp_path, **{"sys__fs__cgroup__cpu.max": "max 100000"})
    assert host.cpu_quota() is None
    assert host.memory_limit() is None


def test_a_gpu_is_told_from_its_audio_device(tmp_path: Path) -> None:
    files = {
        "sys__bus__pci__devices__1__vendor": "0x10de",
        "sys__bus__pci__devices__1__class": "0x030000",
        "sys__bus__pci__devices__2__vendor": "0x10de",
        "sys__bus__pci__devices__2__class": "0x040300",
    }
    assert system(tmp_path, **files).nvidia_gpus() == 1


@pytest.mark.parametrize(
    ("found", "cuda", "check", "words"),
    [
        (_WORKS, None, "gpu.build", "build for CPUs only"),
        (Nvidia(1, (), "", "no devices"), "12.8", "gpu.driver", "no driver is loaded"),
        (Nvidia(1, (), "470.82.01", ""), "12.8", "gpu.driver", "too old for PyTorch's CUDA 12.8"),
        (_WORKS, "13.0", "gpu.driver", "needs 580.0"),
        (_WORKS, "12.8", "gpu.container", "not in this container"),
    ],
)
def test_a_gpu_that_is_not_used_has_a_reason(
    tmp_path: Path,
    found: Nvidia,
    cuda: str | None,
    check: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = unusable(found, cuda=cuda, host=Host(tmp_path), failure="")
    assert (told.status, told.check) == ("problem", check)
    assert words in told.message
    assert told.remedy


@pytest.mark.parametrize(
    ("device", "built_for", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), [], True),
    ],
)
def test_a_build_runs_on_devices_it_has_code_for(
    device: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    assert gpus.has_kernels(*device, built_for) is runs


def test_a_gpu_that_is_hidden_on_purpose_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = unusable(_WORKS, cuda="12.8", host=Host(tmp_path), failure="")
    assert (told.status, told.remedy) == ("warning", "unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("driver", "flags", "check"),
    [
        ("NVRM version: NVIDIA UNIX Module  560.35.03  Fri", "avx2 hypervisor", "gpu.passthrough"),
        ("NVRM version: NVIDIA UNIX Module  560.35.03  Fri", "avx2", "gpu.devices"),
    ],
)
def test_a_driver_whose_gpu_is_missing_is_a_problem(
    tmp_path: Path, driver: str, flags: str, check: str
) -> None:
    files = {"proc__driver__nvidia__version": driver, "proc__cpuinfo": f"flags : {flags}"}
    host = system(tmp_path, **files)
    (told,) = gpus.check_gpus(host)
    assert (told.check, told.status) == (check, "problem")


def test_kernels_that_the_build_does_not_use_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    host = system(tmp_path, proc__cpuinfo="flags : sse4_2 avx2")
    found = {one.check: one for one in torch_build.check_torch(host, tmp_path)}
    assert found["torch.kernels"].status == "warning"


def test_kernels_that_runs_measured_here_are_counted(tmp_path: Path) -> None:
    host, folder = system(tmp_path, proc__cpuinfo="flags : avx2"), tmp_path / "kernels"

    def measured() -> str:
        found = {one.check: one for one in torch_build.check_torch(host, tmp_path)}
        return found["torch.measured"].message

    assert measured().startswith("no run has measured kernels on this machine yet")
    folder.mkdir()
    choices = {
        "chosen": {"product": "onednn", "loss chunk": "256", "other": "torch"},
        "milliseconds": {
            "product": {"torch": 2.0, "onednn": 1.0},
            "loss chunk": {"512": 2.0, "256": 1.0},
            "other": {"torch": 1.0, "onednn": 2.0},
        },
    }
    for name, machine in (("one", kernel_choices._machine()), ("two", "another")):
        (folder / f"{name}.json").write_text(json.dumps({"machine": machine, **choices}))
    assert measured() == (
        "3 parts of 1 shape of models measured on this machine; faster than as usual: "
        "1 onednn, 1 loss in chunks of 256"
    )


def test_a_network_file_system_is_known_by_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Partition:
        mountpoint, fstype = str(tmp_path), "nfs4"

    monkeypatch.setattr("psutil.disk_partitions", lambda **_: [Partition])
    assert disks.network_file_system(tmp_path / "runs") == "nfs4"
    found = {one.check: one for one in disks.check_disks(tmp_path / "runs", tmp_path)}
    assert found["disk.network"].status == "warning"


def test_locks_that_a_file_system_lacks_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disks, "lock_file", refuse)
    found = {one.check: one for one in disks.check_disks(tmp_path, tmp_path)}
    assert found["disk.runs"].status == "problem"
    assert "No locks available" in found["disk.runs"].message
    assert found["disk.cache"].status == "ok"  # where nothing is locked


def test_a_service_that_hangs_is_given_up() -> None:
    never = threading.Event()

    def hang() -> list[Finding]:
        never.wait(20)
        return []

    question = Question("a service", hang, seconds=0.05)
    (told,) = question.answer()
    never.set()
    assert told.status == "warning"
    assert "did not answer" in told.message


@pytest.mark.parametrize(
    ("result", "check"),
    [
        ({"first": 5.0, "last": 4.9, "device": "cpu", "resumed": 12}, "training.steps"),
        ({"first": 5.0, "last": float("nan"), "device": "cpu", "resumed": 12}, "training.steps"),
        ({"first": 5.0, "last": 2.0, "device": "cpu", "resumed": None}, "training.resume"),
    ],
)
def test_a_training_that_learns_or_resumes_not_is_a_problem(
    result: dict[str, object], check: str
) -> None:
    (told,) = judged(result, seconds=1.0)
    assert (told.check, told.status) == (check, "problem")


def test_what_needs_a_package_is_found_by_its_module() -> None:
    assert packages.package_need("scikit-learn") == packages.package_need("sklearn")
    assert packages.package_need("google.cloud.storage") == "package:google"
