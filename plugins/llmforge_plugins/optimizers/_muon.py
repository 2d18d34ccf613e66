"""Muon and AdamW behind one optimizer's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import Parameter

from llmforge_plugins.optimizers._muon_variants import MuonVariants
from llmforge_plugins.optimizers.adamw import decay_groups

_NOT_HIDDEN = ("embed", "wte", "wpe", "head", "positions", "vocab")


def is_hidden_matrix(name: str, parameter: Parameter) -> bool:
    """Return whether Muon is meant for a parameter: a matrix, but neither embedding nor output.

    Embeddings and output layers are known by the usual parts of their names.
    """
    return parameter.dim() == 2 and not any(part in name.lower() for part in _NOT_HIDDEN)


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps Muon over hidden matrices and AdamW over the rest.

    ``state`` and ``param_groups`` are the two optimizers' own, so that checkpoints, schedules and
    gradient scalers see one ordinary optimizer.

    Args:
        parameters: all parameters by name.
        in_bf16: whether matrices are orthogonalised in bf16, as ``torch.optim.Muon`` does, or in
            fp32.
        muon: arguments of ``torch.optim.Muon``.
        variants: those of :class:`MuonVariants` beside them, if any.
        adamw: arguments of ``torch.optim.AdamW``.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Parameter]],
        *,
        in_bf16: bool,
        muon: Mapping[str, Any],
        variants: Mapping[str, Any],
        adamw: Mapping[str, Any],
    ) -> None:
        hidden = [p for name, p in parameters if is_hidden_matrix(name, p)]
        others = [(name, p) for name, p in parameters if not is_hidden_matrix(name, p)]
        self._parts: list[torch.optim.Optimizer] = []
        if hidden:
            group = {"params": hidden, "initial_lr": muon["lr"]}
            if in_bf16 and not variants:
                self._parts.append(torch.optim.Muon([group], **muon))
            else:
                dtype = torch.bfloat16 if in_bf16 else torch.float32
                self._parts.append(MuonVariants([group], dtype=dtype, **variants, **muon))
        if others:
            groups = decay_groups(others, lr=adamw["lr"], weight_decay=adamw["weight_decay"])
            self._parts.append(torch.optim.AdamW(groups, fused=True, **adamw))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with each of the two."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as any optimizer does, and let both parts see the result."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Make the parts work on this optimizer's state and groups, not on their own."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.state = self.state
            part.param_groups = self.param_groups[start:end]
            start = end
