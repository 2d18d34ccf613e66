"""System metrics: processor, memory, disk and GPU, sampled by a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import psutil
import torch

from llmforge.events import MetricsLogged
from llmforge.run.reporting.metrics_files import RowFile

log = logging.getLogger("llmforge.run")

_GIGA = 1e9
_SHORTEST_SECONDS = 1.0
"""A share of the processor over less than this says nothing."""


class SystemProbe:
    """Reads what the machine and this process use.

    Percentages of the processor are over the time since the read before; those of the process
    are of one core, so that they may exceed 100. Sizes are in 10^9 bytes. The GPU's own
    utilisation needs the package ``nvidia-ml-py``; its memory does not.

    Args:
        disk: a path on the disk to watch.
        device: the device that trains: ``cpu``, ``cuda:0`` …
    """

    def __init__(self, *, disk: Path, device: str) -> None:
        self._disk = str(disk)
        self._process = psutil.Process()
        self._gpu = torch.device(device) if device.startswith("cuda") else None
        self._has_utilisation = self._gpu is not None and _tells_utilisation(self._gpu)
        psutil.cpu_percent()
        self._process.cpu_percent()

    def read(self) -> dict[str, float]:
        """Return the values by name, all below ``system/``."""
        memory = psutil.virtual_memory()
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "process_cpu_percent": self._process.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_available_gb": memory.available / _GIGA,
            "process_memory_gb": self._process.memory_info().rss / _GIGA,
            "disk_free_gb": psutil.disk_usage(self._disk).free / _GIGA,
            **self._read_gpu(),
        }
        return {f"system/{name}": round(value, 3) for name, value in values.items()}

    def _read_gpu(self) -> dict[str, float]:
        if self._gpu is None:
            return {}
        free, total = torch.cuda.mem_get_info(self._gpu)
        values = {
            "gpu_memory_gb": (total - free) / _GIGA,
            "gpu_memory_percent": 100 * (total - free) / total,
            "gpu_memory_allocated_gb": torch.cuda.memory_allocated(self._gpu) / _GIGA,
            "gpu_memory_peak_gb": torch.cuda.max_memory_allocated(self._gpu) / _GIGA,
        }
        if self._has_utilisation:
            values["gpu_percent"] = float(torch.cuda.utilization(self._gpu))
        return values


class SystemSampler:
    """Samples while it is entered, every so many seconds and once when it is left.

    Each sample is a row of ``system.jsonl``. Trackers receive them at most once per
    step, for a value counts as delivered by its step: samples taken while the step stands still
    are sent as their mean at the next sample after it has moved on.

    Args:
        read: returns the values by name.
        every: seconds between two samples; 0 samples never.
        path: the file of rows.
        tell: takes a function from the current step to an event, or to None, and gives the event
            out; called from the sampler's thread.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, float]],
        *,
        every: float,
        path: Path,
        tell: Callable[[Callable[[int], MetricsLogged | None]], None],
    ) -> None:
        self._read = read
        self._every = every
        self._tell = tell
        self._rows = RowFile(path) if every else None
        self._waiting: list[Mapping[str, float]] = []
        self._told_step = -1
        self._sampled = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forge-system", daemon=True)

    def __enter__(self) -> SystemSampler:
        if self._every:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._rows is not None:
            self._rows.close()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._every):
                self._sample()
            if time.monotonic() - self._sampled >= _SHORTEST_SECONDS:
                self._sample()
        except (OSError, psutil.Error) as error:
            # A full disk must not end the run from here: the next row or checkpoint reports it.
            log.warning("system metrics have stopped: %s: %s", type(error).__name__, error)

    def _sample(self) -> None:
        values, now = self._read(), time.time()
        self._sampled = time.monotonic()
        self._waiting.append(values)

        def event(step: int) -> MetricsLogged | None:
            assert self._rows is not None
            self._rows.append({"step": step, "time": now, **values})
            if step <= self._told_step:
                return None
            self._told_step = step
            told = _means(self._waiting)
            self._waiting = []
            return MetricsLogged(step=step, values=told, time=now)

        self._tell(event)


def _means(samples: list[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: round(sum(sample[name] for sample in samples) / len(samples), 3)
        for name in samples[0]
    }


def _tells_utilisation(gpu: torch.device) -> bool:
    """Ask for the GPU's utilisation once; the library and the driver have errors of their own."""
    try:
        torch.cuda.utilization(gpu)
    except Exception as error:
        log.info("system/gpu_percent is not measured: %s", error)
        return False
    return True
