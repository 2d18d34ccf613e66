"""What a rank holds of the fp32 weights and the optimizer state under ZeRO, parameter by parameter.

Under every stage a rank's part of a parameter is one contiguous range of its flattened elements,
inside a flat fp32 tensor that the inner optimizer steps:

* stages 1 and 2 put the parameters of a group in one row and cut it into equal parts, so that a
  rank has all of some parameters, part of one or two, and nothing of the rest;
* stage 3 cuts each parameter into equal parts.

DeepSpeed keeps where each part lies (``_hp_mapping`` of :mod:`deepspeed.utils.tensor_fragment`,
``grad_position`` of stage 3); it is read here, so that saving and loading move no data between
ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """This rank's part of one parameter.

    Attributes:
        name: of the parameter.
        shape: of the whole parameter.
        group: index of the flat tensor it is in.
        begin: index of its first element in the flattened parameter.
        count: its elements; 0 when this rank has none.
        start: index of its first element in the flat tensor.
    """

    name: str
    shape: tuple[int, ...]
    group: int
    begin: int
    count: int
    start: int

    def of(self, flat: Tensor) -> Tensor:
        """Return this part of a flat tensor, as a view."""
        return flat.narrow(0, self.start, self.count)


class Fragments:
    """Stages 1 and 2 of ``optimizer``, DeepSpeed's wrapper of the inner one.

    Args:
        optimizer: ``DeepSpeedZeroOptimizer`` or ``BF16_Optimizer``.
        parameters: those that train, by name.
    """

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        self._optimizer = optimizer
        groups = getattr(optimizer, "bit16_groups", None) or optimizer.bf16_groups
        group_of = {id(p): index for index, group in enumerate(groups) for p in group}
        self.parts = [
            _fragment(name, parameter, group_of[id(parameter)])
            for name, parameter in parameters.items()
        ]

    @contextmanager
    def flat(self, group: int, *, write: bool) -> Iterator[Tensor]:
        """Return the flat fp32 weights of a group, the key of the inner optimizer's state."""
        del write
        yield self._optimizer.optimizer.param_groups[group]["params"][0]

    def refresh(self) -> None:
        """Make the weights of the model those of the flat fp32 tensors. All ranks together."""
        self._optimizer.update_lp_params()

    def discard(self) -> None:
        """Drop what gradients were accumulated."""
        self._optimizer.zero_grad()
        if hasattr(self._optimizer, "averaged_gradients"):
            self._optimizer.micro_step_id = -1
            for gradients in (self._optimizer.averaged_gradients, self._optimizer.all_grad_tensors):
                gradients.update(dict.fromkeys(gradients))


def _fragment(name: str, parameter: nn.Parameter, group: int) -> Part:
    shape, mapping = tuple(parameter.shape), parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return Part(name, shape, group, 0, 0, 0)
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Part(name, shape, group, here.start, here.numel, there.start)


class Partitions:
    """Stage 3 of ``optimizer``, ``DeepSpeedZeroOptimizer_Stage3``.

    Args:
        optimizer: DeepSpeed's wrapper of the inner optimizer.
        parameters: those that train, by name.
        rank: of this process.
    """

    def __init__(
        self, optimizer: Any, parameters: Mapping[str, nn.Parameter], *, rank: int
    ) -> None:
        self._optimizer = optimizer
        self.parts = [
            self._partition(name, parameter, rank) for name, parameter in parameters.items()
        ]

    def _partition(self, name: str, parameter: Any, rank: int) -> Part:
        optimizer = self._optimizer
        group, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        begin = min(rank * size, parameter.ds_numel)
        count = min(size, parameter.ds_numel - begin)  # the last parts are padded
        return Part(name, tuple(parameter.ds_shape), group, begin, count, start)

    @contextmanager
    def flat(self, group: int, *, write: bool) -> Iterator[Tensor]:
        """Return the flat fp32 weights of a group, the key of the inner optimizer's state.

        What is offloaded to disk is read for the block, and written after it if ``write``.
        """
        optimizer = self._optimizer
        on_disk = optimizer._swappable_optimizer_subgroup(group)
        if on_disk:
            optimizer._optimizer_states_and_gradient_swap_in(group)
        yield optimizer.fp32_partitioned_groups_flat[group]
        if on_disk and write:
            optimizer._optimizer_states_and_gradient_swap_out(group)
        elif on_disk:
            optimizer._release_swap_buffers(group)

    def refresh(self) -> None:
        """Make the weights of the model those of the flat fp32 tensors. All ranks together."""
        optimizer = self._optimizer
        optimizer.empty_partition_cache()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            with self.flat(group, write=False):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def discard(self) -> None:
        """Drop what gradients were accumulated."""
        optimizer = self._optimizer
        optimizer.zero_grad()
        optimizer.micro_step_id = 0
        optimizer._epilogue_ran_this_backward = False
