"""A run: what a component may know about the one it works for, and one that a tracker has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmforge.matmul_speed import MatmulSpeed

if TYPE_CHECKING:
    import torch

    from llmforge.recipe.schema import TrainTable


def _ignore(text: str) -> None:
    del text


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The run as its components see it: facts, places to write, nothing to steer it with.

    Attributes:
        id: the run id.
        directory: the run directory; a component writes only where its kind has a place in it.
        cache: root of what may be shared between runs and deleted at any time.
        config: the resolved recipe as nested plain tables.
        train: the ``[train]`` table.
        seed: the seed everything random derives from.
        context: sequence length in tokens.
        total_steps: optimizer steps of the run; 0 while it is not known yet, which is before the
            data of a run over ``train.epochs`` are prepared.
        schedule_steps: steps the learning-rate schedule spans; 0 as long.
        offline: the user asked for no network access.
        filled: every weight is about to be read from a checkpoint, so that a model component need
            not fetch or read any.
        resolved: what ``auto`` values became at the first start; empty on that start.
        matmul_speed: of the leader's CPU when the run first started; the same on all ranks and
            after a resume. None for a run on a GPU, and where nothing is trained.
        notice: tells the user something worth knowing; it is shown and kept in the run.
        form: what the model shall be made for, one of :data:`llmforge.interfaces.FORMS` or another
            that an objective has.
        labels: names of the labels of the data, in the order of their numbers.
        rank: index of this process among ``world_size``.
        local_rank: its index among those of its machine, and of its GPU.
    """

    id: str
    directory: Path
    cache: Path
    config: Mapping[str, Any]
    train: TrainTable
    seed: int
    context: int
    total_steps: int = 0
    schedule_steps: int = 0
    offline: bool = False
    filled: bool = False
    resolved: Mapping[str, Any] = field(default_factory=dict)
    matmul_speed: MatmulSpeed | None = None
    notice: Callable[[str], None] = _ignore
    form: str = "next_token"
    labels: tuple[str, ...] = ()
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def bf16_is_native(self, device: torch.device) -> bool:
        """Return whether ``device`` multiplies matrices in bf16 faster than in fp32.

        For components that choose a number format by themselves. The answer is the same on every
        rank and at every start of the run; False where it is not known.
        """
        if device.type == "cuda":
            import torch

            return torch.cuda.get_device_capability(device) >= (8, 0)
        speed = self.matmul_speed if device.type == "cpu" else None
        return speed is not None and speed.bf16_is_native


@dataclass(frozen=True, kw_only=True)
class TrackedCheckpoint:
    """A checkpoint that a tracker's service keeps: its ``step``, and whether it was the best."""

    step: int
    is_best: bool = False


class TrackedRun(Protocol):
    """One run as a tracker's service has it.

    Attributes:
        run_id: the run's id here, as its events said.
        attempt: the attempt that was tracked.
        link: where it can be seen, or how messages may name it; without credentials.
    """

    run_id: str
    attempt: int
    link: str

    def recipe(self) -> str | None:
        """Return the resolved recipe as TOML, None when the service does not have it."""
        ...

    def checkpoints(self) -> Sequence[TrackedCheckpoint]:
        """Return the checkpoints that can be fetched, in any order."""
        ...

    def fetch(self, step: int, target: Path) -> None:
        """Download the files of the checkpoint of ``step`` into ``target``, which does not exist.

        The core verifies them; whatever is wrong or missing is its to tell.
        """
        ...
