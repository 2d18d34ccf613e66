"""The backend ``fsdp``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import Problem
from llmforge.interfaces import Backend, RunContext
from llmforge_plugins.backends._needs import sharding_problems


class Fsdp(Component, kind="backend"):
    """Several processes, each with its share of weights, gradients and optimizer state.

    PyTorch's ``fully_shard`` (FSDP2) over every block and the rest of the model: a block's weights
    are gathered while it is computed. After Zhao et al., "PyTorch FSDP", 2023.
    """

    class Options(llmforge.Options):
        """Options of ``[backend.fsdp]``. All say how, none changes what a run is."""

        reshard_after_forward: bool = True
        """Free a block's gathered weights after its forward pass and gather them again for the
        backward pass; false keeps them: less communication, more memory."""
        cpu_offload: bool = False
        """Keep weights and optimizer state in host memory, where the optimizer steps too."""
        reduce_every_micro_batch: bool = False
        """Exchange gradients after each micro-batch instead of once a step: more communication,
        but no rank holds whole gradients."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Refuse what is not there, and optimizers and formats that shards do not allow."""
        return sharding_problems(run, backend="fsdp")

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend over the ranks of the default process group."""
        from llmforge_plugins.backends._fsdp import FsdpBackend

        options = self.options
        return FsdpBackend(
            run,
            reshard_after_forward=options.reshard_after_forward,
            cpu_offload=options.cpu_offload,
            reduce_every_micro_batch=options.reduce_every_micro_batch,
        )
