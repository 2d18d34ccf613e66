"""GPUs: on the bus, in the driver, in PyTorch; and what is amiss where these do not agree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.doctor.host import Host
from llmforge.progress import size_text

GPU = "gpu"
"""What a recipe needs that may be trained on a GPU."""

_SMI_SECONDS = 5.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""The oldest driver for Linux by the major version of CUDA: NVIDIA, "CUDA Compatibility", minor
version compatibility."""

_WITH_CUDA = (
    "pip install --force-reinstall torch (PyPI's build for Linux has CUDA), or the command that "
    "https://pytorch.org/get-started gives for this driver"
)


@dataclass(frozen=True)
class Nvidia:
    """What this system knows of NVIDIA GPUs without PyTorch.

    Attributes:
        on_bus: GPUs on the PCI bus.
        names: GPUs that ``nvidia-smi`` lists.
        driver: version of the driver, empty when none is loaded.
        failure: why ``nvidia-smi`` is there and fails, in its own words.
    """

    on_bus: int
    names: tuple[str, ...]
    driver: str
    failure: str

    @property
    def present(self) -> bool:
        """Whether there is a GPU."""
        return bool(self.on_bus or self.names)

    @property
    def quoted(self) -> str:
        """Why ``nvidia-smi`` fails, for the end of a message."""
        return f" (nvidia-smi: {self.failure})" if self.failure else ""


def check_gpus(host: Host) -> Iterator[Finding]:
    """Yield what is found of GPUs, and why PyTorch uses none of those that are there."""
    try:
        import torch
    except Exception:  # the checks of PyTorch say so
        return
    found = find_nvidia(host)
    if torch.cuda.is_available():
        yield from _usable(torch)
    elif found.present:
        yield unusable(found, cuda=torch.version.cuda, host=host, failure=_why_not(torch))
    elif torch.backends.mps.is_available():
        yield ok("gpu.devices", "Apple's GPU, by MPS")
    else:
        yield _absent(found, host, cuda=torch.version.cuda)


def find_nvidia(host: Host) -> Nvidia:
    """Ask the PCI bus, the driver's files and ``nvidia-smi``."""
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", host.text("proc/driver/nvidia/version"))
    driver = version[1] if version else ""
    names: list[str] = []
    failure = ""
    if command := shutil.which("nvidia-smi"):
        query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                query, capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
            )
            lines = (done.stdout + done.stderr).strip().splitlines()
            failure = "" if done.returncode == 0 else (lines or ["no output"])[0]
        except (OSError, subprocess.TimeoutExpired) as error:
            lines, failure = [], str(error)
        for line in [] if failure else lines:
            name, _, driver_here = line.partition(",")
            names.append(name.strip())
            driver = driver or driver_here.strip()
    return Nvidia(host.nvidia_gpus(), tuple(names), driver, failure)


def unusable(found: Nvidia, *, cuda: str | None, host: Host, failure: str) -> Finding:
    """Return why PyTorch does not use a GPU that is there.

    Args:
        found: the GPU.
        cuda: the version of CUDA that PyTorch was built for, None without.
        host: the system.
        failure: what PyTorch itself says.
    """
    what = ", ".join(found.names) or f"{found.on_bus} NVIDIA GPU{'s' if found.on_bus > 1 else ''}"
    if cuda is None:
        message = f"{what}, but PyTorch is a build for CPUs only: runs would not use it"
        return problem("gpu.build", message, remedy=_WITH_CUDA, concerns=GPU)
    if os.environ.get(_VISIBLE, "0") in ("", "-1"):
        message = f"{what}, hidden by {_VISIBLE}={os.environ[_VISIBLE]}"
        return warning("gpu.hidden", message, remedy=f"unset {_VISIBLE}", concerns=GPU)
    if not found.driver:
        message = f"{what}, but no driver is loaded{found.quoted}"
        remedy = "install NVIDIA's driver for this system and restart it"
        return problem("gpu.driver", message, remedy=remedy, concerns=GPU)
    if oldest := _older_than(found.driver, cuda):
        return problem(
            "gpu.driver",
            f"the driver {found.driver} is too old for PyTorch's CUDA {cuda}, which needs {oldest}",
            remedy=f"upgrade the driver to {oldest} or later, or install a PyTorch for an older "
            "CUDA: https://pytorch.org/get-started",
            concerns=GPU,
        )
    if not host.exists("dev/nvidiactl"):
        message = f"{what} with driver {found.driver}, but /dev/nvidia* is not in this container"
        remedy = "start it with its GPUs: docker run --gpus all"
        return problem("gpu.container", message, remedy=remedy, concerns=GPU)
    message = f"{what} with driver {found.driver}, but PyTorch cannot use it: {failure}"
    remedy = "restart the machine; if that does not help, install the driver again"
    return problem("gpu.devices", message, remedy=remedy, concerns=GPU)


def _absent(found: Nvidia, host: Host, *, cuda: str | None) -> Finding:
    """Return that there is no GPU, and whether something here expects one."""
    driver = found.driver or shutil.which("nvidia-smi") or host.exists("proc/driver/nvidia")
    virtual = "hypervisor" in host.cpu_flags()
    passed = (
        "give the virtual machine the GPU (PCI passthrough, or the provider's GPU type of machine)"
    )
    if driver and virtual:
        return problem(
            "gpu.passthrough",
            "NVIDIA's driver is installed, but this virtual machine has no GPU on its PCI bus"
            f"{found.quoted}",
            remedy=passed,
            concerns=GPU,
        )
    if driver:
        remedy = "see whether the GPU is seated and powered: lspci | grep -i nvidia"
        message = "NVIDIA's driver is installed, but no GPU is on the PCI bus"
        return problem("gpu.devices", message, remedy=remedy, concerns=GPU)
    if (packages := _cuda_packages()) or cuda:
        what = (
            f"the packages of CUDA are installed ({packages[0]}, …)"
            if packages
            else "PyTorch is built for CUDA"
        )
        return warning(
            "gpu.passthrough" if virtual else "gpu.devices",
            f"{what}, but this {'virtual ' if virtual else ''}machine has no GPU: "
            "runs compute on the CPU",
            remedy=f"nothing, if that is meant; else {passed}"
            if virtual
            else "nothing, if that is meant",
        )
    return ok("gpu.devices", "no GPU: runs compute on the CPU")


def _usable(torch: Any) -> Iterator[Finding]:
    built_for = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{device.name}, {size_text(free)} of {size_text(total)} free"
        if not has_kernels(device.major, device.minor, built_for):
            yield problem(
                "gpu.kernels",
                f"{text}: this build of PyTorch has no kernels for sm_{device.major}{device.minor}",
                remedy=_WITH_CUDA,
                concerns=GPU,
            )
        else:
            formats = "bf16" if device.major >= 8 else "fp16"
            yield ok("gpu.devices", f'{text}; train.precision = "auto" takes {formats}')
    nccl = ""
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        nccl = f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    cudnn = torch.backends.cudnn.version()
    yield ok("gpu.libraries", f"CUDA {torch.version.cuda or 'none'}, cuDNN {cudnn}{nccl}")


def has_kernels(major: int, minor: int, built_for: Sequence[str]) -> bool:
    """Return whether a build of PyTorch runs on a device of compute capability ``major.minor``.

    Args:
        major: of the device.
        minor: of the device.
        built_for: as PyTorch lists it: machine code (``sm_90``), which runs on devices of the same
            major version, and PTX (``compute_90``), which later devices compile. None is for a
            build that does not say.
    """
    if not built_for:
        return True
    for arch in built_for:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch)
        version = (int(match[2]), int(match[3])) if match else (99, 0)
        if version <= (major, minor) and (version[0] == major or arch.startswith("compute")):
            return True
    return False


def _older_than(driver: str, cuda: str) -> str:
    """Return the oldest driver that CUDA takes where ``driver`` is older, else nothing."""
    oldest = _OLDEST_DRIVER.get(int(cuda.partition(".")[0]))
    version = tuple(int(part) for part in driver.split(".")[:2] if part.isdigit())
    return "" if oldest is None or version >= oldest else ".".join(map(str, oldest))


def _cuda_packages() -> list[str]:
    names = {str(found.metadata["Name"]).lower() for found in distributions()}
    return sorted(name for name in names if re.match(r"nvidia-(cuda|cublas|cudnn|nccl)", name))


def _why_not(torch: Any) -> str:
    try:
        torch.cuda.init()
    except (
        Exception
    ) as error:  # PyTorch raises AssertionError, RuntimeError and DeferredCudaCallError
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return "it does not say why"
