"""The backend ``deepspeed``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import Problem
from llmforge.interfaces import Backend, RunContext
from llmforge_plugins.backends._needs import STAGE_3_IS_EAGER, sharding_problems

Place = Literal["none", "cpu", "nvme"]


class DeepSpeed(Component, kind="backend"):
    """Several processes under DeepSpeed: ZeRO stages 0 to 3, offloading to host memory and disk.

    Stage 1 shards the optimizer, 2 gradients too, 3 weights too; 0 is plain data parallelism.
    After Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", 2020.
    """

    requires = ("deepspeed",)

    class Options(llmforge.Options):
        """Options of ``[backend.deepspeed]``. Batch, schedule, precision and clipping are the
        recipe's."""

        stage: Annotated[int, Field(ge=0, le=3)] = 2
        """ZeRO stage."""
        offload_optimizer: Place = "none"
        """Where optimizer state lives besides the device; from stage 1 on, ``nvme`` in stage 3."""
        offload_param: Place = "none"
        """Where weights live besides the device; stage 3 only."""
        nvme_path: str | None = None
        """Directory on a fast local disk for what is offloaded to ``nvme``."""
        config: dict[str, Any] = Field(default_factory=dict)
        """Further keys of DeepSpeed's own configuration, for example ``zero_optimization``."""

        @model_validator(mode="after")
        def _offloading(self) -> Any:
            if self.offload_optimizer != "none" and self.stage == 0:
                raise ValueError("offload_optimizer needs stage 1 or higher")
            if self.offload_param != "none" and self.stage != 3:
                raise ValueError("offload_param needs stage 3")
            if self.offload_optimizer == "nvme" and self.stage != 3:
                raise ValueError('offload_optimizer = "nvme" needs stage 3')
            if "nvme" in (self.offload_optimizer, self.offload_param) and not self.nvme_path:
                raise ValueError("offloading to nvme needs nvme_path")
            return self

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Check DeepSpeed's own keys and what offloading needs, before step 0."""
        problems = sharding_problems(run, backend="deepspeed")
        if self.options.stage == 3 and run.train.compile is True:
            remedy = 'set train.compile = "auto", or backend.deepspeed.stage = 2'
            problems.append(Problem(key="train.compile", message=STAGE_3_IS_EAGER, remedy=remedy))
        if not self.missing_packages():
            from llmforge_plugins.backends._deepspeed_config import config_problems

            problems += config_problems(run, self.options)
        return problems

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend over the ranks of the default process group."""
        from llmforge_plugins.backends._deepspeed import DeepSpeedBackend

        return DeepSpeedBackend(run, self.options)
