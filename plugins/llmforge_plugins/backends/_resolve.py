"""Turning ``auto`` into a device, a precision and compilation, with a reason for each."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from llmforge.errors import Problem, RecipeError
from llmforge.interfaces import Resolution, RunContext

_STEPS_WORTH_COMPILING = 2_000  # a compilation takes tens of seconds to minutes

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD = -1  # numbers of mallopt(3)
_M_MMAP_THRESHOLD = -3
_NEVER_TRIM = 2**31 - 1
_THRESHOLDS = (2**30, 2**25)  # before glibc 2.35 values above 32 MiB are refused


def resolve(run: RunContext) -> Resolution:
    """Decide device, precision and compilation of ``run``.

    What an earlier start of the run decided (``run.resolved``) is kept where the recipe still
    says ``auto``, so that a resume never changes the numbers.

    Raises:
        RecipeError: the recipe asks for what this machine cannot do.
    """
    kept = run.resolved
    device, why_device = _device(run.train.device, kept)
    if run.world_size > 1 and device.type == "cuda":
        device, why_device = _own_device(run, device, why_device)
    precision, why_precision = _precision(run, device, kept)
    compile_, why_compile = _compile(run, device, kept)
    return Resolution(
        device=str(device),
        precision=precision,
        compile=compile_,
        hardware=_hardware(device),
        reasons=(why_device, why_precision, why_compile),
    )


def explained(resolution: Resolution, *reasons: str, recomputed: int = 0) -> Resolution:
    """Return a resolution with more to say: ``reasons``, and how many blocks are recomputed."""
    if recomputed:
        blocks = f"{recomputed} block{'s' if recomputed != 1 else ''}"
        reasons = (*reasons, f"activations of {blocks} are computed again for the backward pass")
    return dataclasses.replace(resolution, reasons=resolution.reasons + reasons)


def eager(resolution: Resolution, why: str) -> Resolution:
    """Return a resolution without compilation, which ``auto`` knows no reason against."""
    if not resolution.compile:
        return resolution
    reasons = [text for text in resolution.reasons if not text.startswith("compile ")]
    return dataclasses.replace(resolution, compile=False, reasons=(*reasons, f"compile no: {why}"))


def take_device(resolution: Resolution) -> torch.device:
    """Make this process ready to compute on the device of ``resolution`` and return that."""
    device = torch.device(resolution.device)
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds so that freed tensors stay in the process; return whether it did.

    By default glibc maps every block above 32 MiB at most afresh and unmaps it when freed, and
    gives the top of its heap back. A training step frees and takes the same tensors again and
    again, and the kernel then clears their pages each time: on two cores that took half of a
    bf16 step. With the thresholds raised, freed memory is reused. The peak stays the same.
    """
    if platform.libc_ver()[0] != "glibc":
        _log.debug("allocator thresholds left alone: not glibc")
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        _log.debug("allocator thresholds left alone: %s", error)
        return False
    raised = any(mallopt(_M_MMAP_THRESHOLD, value) for value in _THRESHOLDS)
    trimmed = bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
    if not (raised and trimmed):
        _log.debug("mallopt refused: mmap threshold %s, trim threshold %s", raised, trimmed)
    return raised and trimmed


def _device(asked: str, kept: Mapping[str, Any]) -> tuple[torch.device, str]:
    if asked != "auto":
        device = torch.device(asked)
        _check_device(device)
        return _indexed(device), f"device {asked}: as the recipe says"
    if "device" in kept and _is_available(torch.device(kept["device"])):
        return torch.device(kept["device"]), f"device {kept['device']}: as before the resume"
    if torch.cuda.is_available():
        return torch.device("cuda:0"), "device cuda:0: the first CUDA device"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "device mps: Apple's GPU"
    return torch.device("cpu"), "device cpu: no GPU is available"


def _own_device(run: RunContext, device: torch.device, why: str) -> tuple[torch.device, str]:
    """Return the GPU of one of several processes: that of its number on its machine."""
    asked = run.train.device
    if asked.startswith("cuda:"):
        raise _refusal(
            "train.device",
            f"'{asked}' is one GPU, but each of {run.world_size} processes needs one",
            'set train.device = "cuda", and choose with CUDA_VISIBLE_DEVICES',
        )
    own = torch.device("cuda", run.local_rank)
    if not _is_available(own):
        raise _refusal(
            "train.device",
            f"process {run.local_rank + 1} of this machine has no GPU: {_cuda_found()}",
            "start no more processes on a machine than it has GPUs (--nproc-per-node), "
            'or set train.device = "cpu"',
        )
    return own, why.replace(str(device), "cuda, a GPU for each process")


def _indexed(device: torch.device) -> torch.device:
    return torch.device("cuda:0") if str(device) == "cuda" else device


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True


def _check_device(device: torch.device) -> None:
    if _is_available(device):
        return
    found = "PyTorch finds no Apple GPU" if device.type == "mps" else _cuda_found()
    raise _refusal(
        "train.device",
        f"'{device}' is not available: {found}",
        'set it to "auto", or install a PyTorch build for your GPU',
    )


def _cuda_found() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"PyTorch finds {count} CUDA device{'s' if count != 1 else ''}"


def _refusal(key: str, message: str, remedy: str) -> RecipeError:
    return RecipeError([Problem(key=key, message=message, remedy=remedy)])


def _precision(run: RunContext, device: torch.device, kept: Mapping[str, Any]) -> tuple[str, str]:
    asked = run.train.precision
    if asked == "fp16" and device.type != "cuda":
        raise _refusal(
            "train.precision",
            f"'fp16' needs a CUDA device, but the device is {device}",
            'set it to "auto"',
        )
    if asked != "auto":
        return asked, f"precision {asked}: as the recipe says"
    if "precision" in kept:
        return kept["precision"], f"precision {kept['precision']}: as before the resume"
    native = run.bf16_is_native(device)
    if device.type == "cuda":
        if native:
            return "bf16", "precision bf16: native on this GPU"
        return "fp16", "precision fp16: this GPU has no native bf16"
    measured = f" ({run.matmul_speed})" if run.matmul_speed and device.type == "cpu" else ""
    if native:
        return "bf16", f"precision bf16: native on this {device.type.upper()}{measured}"
    return "fp32", f"precision fp32: no native bf16 on this {device.type.upper()}{measured}"


def _compile(run: RunContext, device: torch.device, kept: Mapping[str, Any]) -> tuple[bool, str]:
    asked = run.train.compile
    if asked != "auto":
        return asked, f"compile {_yes(asked)}: as the recipe says"
    if "compile" in kept:
        return bool(kept["compile"]), f"compile {_yes(bool(kept['compile']))}: as before the resume"
    if device.type != "cuda":
        return False, "compile no: on this device the eager kernels are as fast"
    if run.total_steps < _STEPS_WORTH_COMPILING:
        return False, f"compile no: {run.total_steps} steps are too few to be worth it"
    return True, f"compile yes: {run.total_steps} steps are worth it"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads != 1 else ''}" + (
        ", MPS" if device.type == "mps" else ""
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module knows a name
    return platform.processor() or platform.machine() or f"{os.cpu_count()} cores"
