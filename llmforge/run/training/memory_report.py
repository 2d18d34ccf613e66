"""What was in memory when it did not suffice: groups, largest tensors, CUDA's snapshot."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from llmforge.interfaces import Engine, RunContext
from llmforge.progress import size_text
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_json

log = logging.getLogger("llmforge.run")

_LARGEST = 20
_TEMPORARY = "temporary"


class MemoryReports:
    """Writes a report into ``memory`` of the run whenever a step runs out of memory.

    Args:
        run: the run; each rank writes files of its own.
        engine: its model and optimizer.

    Attributes:
        where: what of the newest report an error message has: sizes by group, and the file.
    """

    def __init__(self, run: RunContext, engine: Engine) -> None:
        self._run = run
        self._engine = engine
        self.where = ""

    def write(self, error: BaseException, *, step: int, micro_batch: int) -> None:
        """Write what is in memory now; nothing that goes wrong here hides ``error``.

        Called while ``error`` is handled: the tensors of the step are still alive.

        Args:
            error: what the allocator raised.
            step: that did not fit.
            micro_batch: sequences at once.
        """
        try:
            report = self._report(error, step=step, micro_batch=micro_batch)
            folder = RunDirectory(self._run.directory).memory
            folder.mkdir(exist_ok=True)
            path = folder / f"rank{self._run.rank}-step-{step}-micro-batch-{micro_batch}.json"
            write_json(path, report)
            groups = ", ".join(
                f"{name} {size_text(size)}" for name, size in report["groups"].items()
            )
            self.where = f"; {groups}; largest tensors in {path}"
            if self._engine.device.type == "cuda":
                self._snapshot(path.with_suffix(".pickle"))
        except Exception as failure:  # memory is short: this may fail as well
            log.debug("no memory report: %r", failure)

    def _snapshot(self, path: Path) -> None:
        torch.cuda.memory._dump_snapshot(str(path))
        self.where += f", blocks of the GPU in {path.name} for https://pytorch.org/memory_viz"

    def _report(self, error: BaseException, *, step: int, micro_batch: int) -> dict[str, Any]:
        tensors = [*self._known()]
        counted = {_storage(tensor) for _, _, tensor in tensors}
        tensors += [
            (_TEMPORARY, "", tensor)
            for tensor in _alive()
            if _storage(tensor) not in counted and tensor.device.type == self._engine.device.type
        ]
        groups: dict[str, int] = {}
        seen: set[int] = set()
        for group, _, tensor in tensors:
            size = 0 if _storage(tensor) in seen else _bytes(tensor)
            seen.add(_storage(tensor))
            groups[group] = groups.get(group, 0) + size
        tensors.sort(key=lambda item: -_bytes(item[2]))
        lines = str(error).strip().splitlines()
        return {
            "step": step,
            "rank": self._run.rank,
            "micro_batch": micro_batch,
            "device": str(self._engine.device),
            "error": lines[0] if lines else type(error).__name__,
            **self._machine(),
            "groups": groups,
            "largest": [_described(*item) for item in tensors[:_LARGEST]],
        }

    def _machine(self) -> dict[str, int]:
        process, memory = psutil.Process().memory_info(), psutil.virtual_memory()
        found = {"process": process.rss, "free": memory.available, "total": memory.total}
        if self._engine.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._engine.device)
            found |= {
                "gpu_allocated": torch.cuda.memory_allocated(self._engine.device),
                "gpu_reserved": torch.cuda.memory_reserved(self._engine.device),
                "gpu_free": free,
                "gpu_total": total,
            }
        return found

    def _known(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        """Yield group, name and tensor of what the engine holds between steps."""
        model: Any = self._engine.model
        for name, parameter in model.named_parameters():
            yield "weights", name, parameter.detach()
            if parameter.grad is not None:
                yield "gradients", name, parameter.grad
        if self._run.world_size == 1:  # on several ranks all would have to ask at once
            for name, tensor in self._engine.state().optimizer.items():
                yield "optimizer", name, tensor


def _alive() -> Iterator[torch.Tensor]:
    for item in gc.get_objects():
        if type(item) is torch.Tensor:  # isinstance wakes up whatever pretends to be one
            yield item


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _described(group: str, name: str, tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "group": group,
        "name": name,
        "bytes": _bytes(tensor),
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
