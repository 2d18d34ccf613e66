"""What Linux says of itself in ``/proc``, ``/sys`` and ``/dev``; other systems say nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # the PCI class of GPUs; their audio devices have another


@dataclass(frozen=True)
class Host:
    """The files of a running system below ``root``.

    Attributes:
        root: ``/``, or a folder that stands in for it.
    """

    root: Path = Path("/")

    def text(self, path: str) -> str:
        """Return the content of a file without white space around it, empty when there is none."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        """Return whether there is something at ``path``."""
        return (self.root / path).exists()

    def cpu_flags(self) -> frozenset[str]:
        """Return what the first processor can do, as ``/proc/cpuinfo`` names it."""
        for line in self.text("proc/cpuinfo").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
        return frozenset()

    def cpu_name(self) -> str:
        """Return the name of the processor, empty when the system does not say."""
        lines = self.text("proc/cpuinfo").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, "")

    def nvidia_gpus(self) -> int:
        """Return how many NVIDIA GPUs are on the PCI bus."""
        devices = self.root / "sys/bus/pci/devices"
        with contextlib.suppress(OSError):
            return sum(
                self.text(f"{device}/vendor") == _NVIDIA
                and self.text(f"{device}/class").startswith(_DISPLAY)
                for device in devices.iterdir()
            )
        return 0

    def cpu_quota(self) -> float | None:
        """Return how many processors the control group may use at once, None without a limit."""
        found = []
        for folder in self._groups("cpu"):
            quota, period = (
                self.text(f"{folder}/cpu.cfs_quota_us"),
                self.text(f"{folder}/cpu.cfs_period_us"),
            )
            if not quota:
                quota, _, period = self.text(f"{folder}/cpu.max").partition(" ")
            with contextlib.suppress(ValueError, ZeroDivisionError):
                found.append(int(quota) / int(period))
        return min((one for one in found if one > 0), default=None)

    def memory_limit(self) -> int | None:
        """Return the bytes that the control group may use, None without a limit."""
        found = []
        for folder in self._groups("memory"):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(ValueError):
                    found.append(int(self.text(f"{folder}/{name}")))
        return min((one for one in found if one < 1 << 60), default=None)

    def _groups(self, controller: str) -> Iterator[str]:
        """Yield the folders of this process's control group and those above it, v2 and v1."""
        base = "sys/fs/cgroup"
        for line in self.text("proc/self/cgroup").splitlines() or ["0::/"]:
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controller in controllers.split(",") or number == "0":
                top = f"{base}/{controller}" if controllers else base
                parts = [part for part in path.split("/") if part]
                for length in range(len(parts), -1, -1):
                    yield "/".join([top, *parts[:length]])
