"""The adapter ``lora``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import Adapter

Name = Annotated[str, Field(min_length=1)]


class Lora(Component, kind="adapter"):
    """Trains small matrices beside frozen linear maps, by the package ``peft``.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    """

    requires = ("peft",)

    class Options(llmforge.Options):
        """Options of ``[adapter.lora]``."""

        r: Annotated[int, Field(gt=0)] = 16
        """Rank of the matrices that are added."""
        alpha: Annotated[float, Field(gt=0)] = 32
        """What is added is multiplied by ``alpha / r``."""
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
        """Share of the inputs of the added matrices that is dropped while training."""
        targets: Literal["auto", "all-linear"] | tuple[Name, ...] = "auto"
        """Linear maps to adapt: ``auto`` for those that peft recommends for the architecture, and
        all of the blocks for the model ``transformer``; ``all-linear`` for all but the output; or a
        list of names or their endings, such as ``["q_proj", "v_proj"]``."""
        rslora: bool = False
        """Multiply by ``alpha / sqrt(r)`` instead (Kalajdzievski, "A Rank Stabilization Scaling
        Factor for Fine-Tuning with LoRA", 2023)."""
        dora: bool = False
        """Train magnitudes beside directions (Liu et al., "DoRA", 2024); slower."""
        init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
        """How the matrices start, as peft has it. With ``pissa`` and ``olora`` the frozen weights
        change too, by a decomposition whose last bits depend on the machine."""
        modules_to_save: tuple[Name, ...] = ()
        """Modules that are trained whole beside it, such as ``["lm_head"]``, by name or ending."""

        @model_validator(mode="before")
        @classmethod
        def _lists_are_tuples(cls, values: Any) -> Any:
            if not isinstance(values, Mapping):
                return values
            return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}

        @model_validator(mode="after")
        def _fits_together(self) -> Any:
            if self.targets == ():
                raise ValueError("targets must name at least one linear map")
            if self.init == "orthogonal" and self.r % 2:
                raise ValueError(f'init = "orthogonal" needs an even r, got {self.r}')
            return self

    @hookimpl
    def forge_build_adapter(self) -> Adapter:
        """Build what puts the matrices into a model."""
        from llmforge_plugins.adapters._lora import LoraAdapter

        return LoraAdapter(self.options, key=f"adapter.{self.name}")
