"""PyTorch: its build, the kernels it uses on this processor, its threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.doctor.host import Host
from llmforge.doctor.machine import usable_cores

_KERNELS_HELD_BACK = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
_SHOWN_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def check_torch(host: Host, cache: Path | None) -> Iterator[Finding]:
    """Yield what is found of PyTorch; nothing but a problem where it cannot be imported.

    Args:
        host: the machine.
        cache: what runs share, the kernels they measured among it; None where settings do not
            say.
    """
    try:
        import torch
    except Exception as error:  # a broken build raises what its libraries raise
        yield problem(
            "torch.import",
            f"PyTorch cannot be imported: {type(error).__name__}: {error}",
            remedy="pip install --force-reinstall torch",
        )
        return
    yield ok("torch.build", f"PyTorch {torch.__version__}, built for {_built_for()}")
    yield _kernels(host)
    yield _threads(host)
    yield _number_formats()
    if cache is not None:
        yield _measured_kernels(cache)


def _built_for() -> str:
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    if getattr(torch.version, "hip", None):
        return f"ROCm {torch.version.hip}"
    return "MPS and CPU" if torch.backends.mps.is_built() else "CPU only"


def _kernels(host: Host) -> Finding:
    import torch

    flags = host.cpu_flags()
    capability = torch.backends.cpu.get_cpu_capability()
    libraries = [
        name
        for name, there in (
            ("MKL", torch.backends.mkl.is_available()),
            ("oneDNN", torch.backends.mkldnn.is_available()),
        )
        if there
    ]
    shown = ", ".join(flag for flag in _SHOWN_FLAGS if flag in flags)
    text = f"{capability} kernels, {' and '.join(libraries) or 'neither MKL nor oneDNN'}"
    text += f"; the CPU has {shown}" if shown else ""
    held = [f"{name}={os.environ[name]}" for name in _KERNELS_HELD_BACK if name in os.environ]
    if held:
        return warning(
            "torch.kernels",
            f"{text}; libraries are held to some of it by {', '.join(held)}",
            remedy=f"unset {' '.join(item.partition('=')[0] for item in held)}",
        )
    if capability == "DEFAULT" and "avx2" in flags:
        return warning(
            "torch.kernels",
            f"{text}, which this build of PyTorch does not use",
            remedy="install PyTorch's own wheel: pip install --force-reinstall torch",
        )
    return ok("torch.kernels", text)


def _threads(host: Host) -> Finding:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores(host)
    text = (
        f"{threads} thread{'s' if threads > 1 else ''} for {cores} core{'s' if cores > 1 else ''}"
    )
    if threads > cores:
        return warning(
            "torch.threads",
            f"{text}: they wait for each other, which costs more than it brings",
            remedy=f"export OMP_NUM_THREADS={cores}",
        )
    if threads == 1 < cores and "OMP_NUM_THREADS" in os.environ:
        return warning(
            "torch.threads",
            f"{text}, as OMP_NUM_THREADS says",
            remedy=f"export OMP_NUM_THREADS={cores}, unless each core has a process of its own",
        )
    return ok("torch.threads", text)


def _number_formats() -> Finding:
    from llmforge.matmul_speed import measure_matmul_speed

    speed = measure_matmul_speed()
    chosen = "bf16" if speed.bf16_is_native else "fp32"
    return ok("torch.formats", f'on this CPU train.precision = "auto" takes {chosen}: {speed}')


def _measured_kernels(cache: Path) -> Finding:
    from llmforge.run.setup.kernel_choices import choices_here

    found = choices_here(cache)
    if not found:
        text = "no run has measured kernels on this machine yet; each does so at its first start"
        return ok("torch.measured", text)
    taken = Counter(
        f"{'loss in chunks of ' if way.isdigit() else ''}{way}"
        for each in found
        for name, way in each.chosen.items()
        if way != next(iter(each.milliseconds[name]))
    )
    count = sum(len(each.chosen) for each in found)
    models = f"{len(found)} shape{'s' if len(found) > 1 else ''} of models"
    others = ", ".join(f"{number} {way}" for way, number in taken.most_common())
    text = f"{count} parts of {models} measured on this machine"
    return ok("torch.measured", f"{text}; faster than as usual: {others or 'none'}")
