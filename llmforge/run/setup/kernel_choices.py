"""The fastest way to compute each part of a model on this CPU: measured once, kept by the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from llmforge.distributed import Team
from llmforge.file_lock import lock_file
from llmforge.rundir.atomic import write_json

_log = logging.getLogger("llmforge.run")

KERNELS = "kernels"
"""Where the record's ``resolved`` has what was chosen."""

_SECONDS = 1.0
_CLEARLY = 0.95
"""A way is taken instead of the first if it needs at most this share of its time."""

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that hold libraries to older instructions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelChoices:
    """What was measured and what is taken.

    Attributes:
        machine: processor, libraries and threads that it was measured with.
        chosen: the way taken, by what is computed.
        milliseconds: of each way, by what is computed.
    """

    machine: str
    chosen: Mapping[str, str]
    milliseconds: Mapping[str, Mapping[str, float]]

    def lines(self) -> list[str]:
        """Return in a line how much is not computed in the usual way, if anything was measured."""
        if not self.chosen:
            return []
        others = Counter(way for name, way in self.chosen.items() if way != self._usual(name))
        shown = ", ".join(f"{count} {way}" for way, count in others.most_common())
        return [
            f"kernels: {len(self.chosen)} measured, faster than as usual: {shown or 'none'} "
            "(each is in 'forge runs show')"
        ]

    def _usual(self, name: str) -> str:
        return next(iter(self.milliseconds[name]))


def choose_kernels(
    model: Any,
    resolved: Mapping[str, Any],
    *,
    cache: Path,
    rows: int,
    length: int,
    bf16: bool,
    team: Team,
    notice: Callable[[str], None],
) -> KernelChoices | None:
    """Let ``model`` take what is fastest on the leader's CPU; return it, None without a choice.

    A resume on the same machine keeps what the run has; on another one the choice is made anew,
    which ``notice`` says. Runs of the same shapes on one machine share a measurement, so that
    they stay equal to the bit.

    Args:
        model: on a CPU.
        resolved: of the run's record.
        cache: root of what runs share.
        rows: sequences computed at once.
        length: their tokens at most.
        bf16: whether products are computed in bf16.
        team: all ranks do this together.
        notice: tells the user what is worth knowing.
    """
    if not hasattr(model, "measure_kernels"):
        return None
    found = None
    if team.place.is_leader:
        kept = resolved.get(KERNELS)
        machine = _machine()
        if kept is None and resolved:
            found = KernelChoices(machine=machine, chosen={}, milliseconds={})
        elif kept is not None and kept["machine"] == machine:
            found = KernelChoices(**kept)
        else:
            settings: dict[str, Any] = {"rows": rows, "length": length, "bf16": bf16}
            found = _measured(model, machine, settings, cache / KERNELS)
            if kept is not None and (kept["chosen"] or found.chosen):
                notice(
                    "this is another machine than before, or other threads or libraries: "
                    f"{_changes(kept['chosen'], found.chosen)}; results differ by rounding"
                )
    found = team.broadcast(found)
    assert found is not None
    for name, times in found.milliseconds.items():
        each = ", ".join(f"{way} {took:.3g} ms" for way, took in times.items())
        _log.debug("kernel %s: %s (%s)", name, found.chosen[name], each)
    model.use_kernels(found.chosen)
    return found


def choices_here(cache: Path) -> list[KernelChoices]:
    """Return what runs on this machine have measured, of models of any shape."""
    found = (_read(path) for path in sorted((cache / KERNELS).glob("*.json")))
    return [each for each in found if each is not None and each.machine == _machine()]


def _measured(model: Any, machine: str, settings: Mapping[str, Any], folder: Path) -> KernelChoices:
    """Return what an earlier run on this machine measured for such a model, or measure it."""
    described = {"machine": machine, "model": dict(model.architecture), **settings}
    text = json.dumps(described, sort_keys=True, default=str)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if (earlier := _read(path)) is not None:
        return earlier
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("a") as file:
            lock_file(file, wait=True)  # two that measure at once would disturb each other
            if (earlier := _read(path)) is not None:
                return earlier
            found = _measure(model, machine, settings)
            write_json(path, dataclasses.asdict(found))
            return found
    except OSError:  # the cache cannot be written: it is measured again next time
        return _measure(model, machine, settings)


def _measure(model: Any, machine: str, settings: Mapping[str, Any]) -> KernelChoices:
    times = model.measure_kernels(**settings, seconds=_SECONDS)
    return KernelChoices(
        machine=machine,
        chosen={name: _fastest(ways) for name, ways in times.items()},
        milliseconds={
            name: {way: round(took, 4) for way, took in ways.items()}
            for name, ways in times.items()
        },
    )


def _read(path: Path) -> KernelChoices | None:
    """Return what a file holds; None where it is not there, or damaged."""
    try:
        found = KernelChoices(**json.loads(path.read_text(encoding="utf-8")))
        known = all(way in found.milliseconds[name] for name, way in found.chosen.items())
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return None
    return found if known else None


def _fastest(ways: Mapping[str, float]) -> str:
    usual = next(iter(ways))
    best = min(ways, key=ways.__getitem__)
    return best if ways[best] < _CLEARLY * ways[usual] else usual


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    changed = sum(before.get(name) != way for name, way in now.items())
    if not changed:
        return "the same kernels are fastest"
    return f"{changed} of {len(now)} kernels are chosen anew"


def _machine() -> str:
    """Return what decides which kernels are fast."""
    parts = [
        _processor(),
        torch.backends.cpu.get_cpu_capability(),
        f"torch {torch.__version__}",
        f"{torch.get_num_threads()} threads",
        *(f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)),
    ]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = {"model name": "", "cpu family": "family ", "model": "model ", "stepping": "stepping "}
    found = dict.fromkeys(wanted, "")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in wanted and not found[name.strip()]:
            found[name.strip()] = wanted[name.strip()] + value.strip()
    return " ".join(value for value in found.values() if value) or platform.machine()
