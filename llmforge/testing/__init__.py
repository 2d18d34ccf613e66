"""What plugin authors test their components with: contract suites, stand-ins and a run context.

Subclass the contract of your kind in a test module and pytest collects its tests::

    from llmforge.testing import TrackerContract
    from my_package.tracker import Mine

    class TestMine(TrackerContract):
        component = Mine

The fixtures ``forge_run_context``, ``forge_recipe`` and ``forge_cli`` come from
:mod:`llmforge.testing.plugin`, which pytest loads by itself once llmforge is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from llmforge.testing.context import make_component, run_context
    from llmforge.testing.contracts.adapter import AdapterContract
    from llmforge.testing.contracts.backend import BackendContract
    from llmforge.testing.contracts.callback import CallbackContract
    from llmforge.testing.contracts.data import DataContract, TokenDataContract
    from llmforge.testing.contracts.deploy import DeployContract
    from llmforge.testing.contracts.generation import GenerationContract
    from llmforge.testing.contracts.metric import MetricContract
    from llmforge.testing.contracts.model import ModelContract
    from llmforge.testing.contracts.objective import ObjectiveContract
    from llmforge.testing.contracts.optimizer import OptimizerContract
    from llmforge.testing.contracts.schedule import ScheduleContract
    from llmforge.testing.contracts.storage import StorageContract
    from llmforge.testing.contracts.sweep import SweeperContract
    from llmforge.testing.contracts.tokenizer import TokenizerContract
    from llmforge.testing.contracts.tracker import TrackerContract
    from llmforge.testing.simulated import SimulatedTrials
    from llmforge.testing.stand_ins import (
        TinyChatTokenizer,
        TinyData,
        TinyTokenizer,
        example_encoder,
        one_of_each_event,
    )
    from llmforge.testing.tiny_model import TinyModel

_HOMES = {
    "AdapterContract": "contracts.adapter",
    "BackendContract": "contracts.backend",
    "CallbackContract": "contracts.callback",
    "DataContract": "contracts.data",
    "DeployContract": "contracts.deploy",
    "GenerationContract": "contracts.generation",
    "MetricContract": "contracts.metric",
    "ModelContract": "contracts.model",
    "ObjectiveContract": "contracts.objective",
    "OptimizerContract": "contracts.optimizer",
    "ScheduleContract": "contracts.schedule",
    "SimulatedTrials": "simulated",
    "StorageContract": "contracts.storage",
    "SweeperContract": "contracts.sweep",
    "TinyChatTokenizer": "stand_ins",
    "TinyData": "stand_ins",
    "TinyModel": "tiny_model",
    "TinyTokenizer": "stand_ins",
    "TokenDataContract": "contracts.data",
    "TokenizerContract": "contracts.tokenizer",
    "TrackerContract": "contracts.tracker",
    "example_encoder": "stand_ins",
    "make_component": "context",
    "one_of_each_event": "stand_ins",
    "run_context": "context",
}

__all__ = [
    "AdapterContract",
    "BackendContract",
    "CallbackContract",
    "DataContract",
    "DeployContract",
    "GenerationContract",
    "MetricContract",
    "ModelContract",
    "ObjectiveContract",
    "OptimizerContract",
    "ScheduleContract",
    "SimulatedTrials",
    "StorageContract",
    "SweeperContract",
    "TinyChatTokenizer",
    "TinyData",
    "TinyModel",
    "TinyTokenizer",
    "TokenDataContract",
    "TokenizerContract",
    "TrackerContract",
    "example_encoder",
    "make_component",
    "one_of_each_event",
    "run_context",
]


__getattr__ = lazy_exports(
    __name__, {name: f"llmforge.testing.{home}" for name, home in _HOMES.items()}
)


def __dir__() -> list[str]:
    return sorted(__all__)
