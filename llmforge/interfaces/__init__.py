"""One small protocol per kind: what a component must hand to the core.

Nothing here imports torch or a plugin at run time.
"""

from llmforge.interfaces.backend import (
    Backend,
    Engine,
    EngineState,
    Resolution,
    Slice,
    SlicedTensors,
    StepResult,
    flat_part,
    whole_shape,
)
from llmforge.interfaces.data import Data, TokenData, TokenShard
from llmforge.interfaces.examples import (
    Conversation,
    ExampleData,
    ExampleLayout,
    Message,
)
from llmforge.interfaces.generation import Completion, GenerationRequest, Generator
from llmforge.interfaces.model import IGNORE_INDEX, Batch, Cache, LanguageModel, model_blocks
from llmforge.interfaces.run import RunContext, TrackedCheckpoint, TrackedRun
from llmforge.interfaces.storage import Progress, Storage, public_url
from llmforge.interfaces.sweep import Dimension, Direction, Point, Space, Sweeper, Tie
from llmforge.interfaces.tokenizer import ChatTokenizer, Tokenizer
from llmforge.matmul_speed import MatmulSpeed

__all__ = [
    "IGNORE_INDEX",
    "Backend",
    "Batch",
    "Cache",
    "ChatTokenizer",
    "Completion",
    "Conversation",
    "Data",
    "Dimension",
    "Direction",
    "Engine",
    "EngineState",
    "ExampleData",
    "ExampleLayout",
    "GenerationRequest",
    "Generator",
    "LanguageModel",
    "MatmulSpeed",
    "Message",
    "Point",
    "Progress",
    "Resolution",
    "RunContext",
    "Slice",
    "SlicedTensors",
    "Space",
    "StepResult",
    "Storage",
    "Sweeper",
    "Tie",
    "TokenData",
    "TokenShard",
    "Tokenizer",
    "TrackedCheckpoint",
    "TrackedRun",
    "flat_part",
    "model_blocks",
    "public_url",
    "whole_shape",
]
