"""One small protocol per kind: what a component must hand to the core.

Nothing here imports torch or a plugin at run time.
"""

from llmforge.interfaces.adapter import Adapter
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
from llmforge.interfaces.continuous import (
    Continuation,
    ContinuationUpdate,
    ContinuousBatch,
    ContinuousGenerator,
    TokenScore,
)
from llmforge.interfaces.data import Data, TokenData, TokenShard
from llmforge.interfaces.deployment import (
    DeployedFile,
    Deployment,
    ModelFolder,
    Outlook,
    Receipt,
)
from llmforge.interfaces.examples import (
    Conversation,
    Example,
    ExampleData,
    ExampleLayout,
    Message,
    Preference,
    Row,
    TextExample,
)
from llmforge.interfaces.generation import Completion, GenerationRequest, Generator
from llmforge.interfaces.hugging_face import (
    HuggingFaceAdapter,
    HuggingFaceModel,
    HuggingFaceTokenizer,
)
from llmforge.interfaces.metric import Metric, Needs
from llmforge.interfaces.model import (
    IGNORE_INDEX,
    Batch,
    Cache,
    LabelPredictor,
    LanguageModel,
    LinearLayer,
    LinearLayers,
    RowCache,
    SequenceScorer,
    SourceReader,
    linear_layers,
    model_blocks,
    weight_count,
)
from llmforge.interfaces.objective import (
    FORMS,
    PREFERENCES,
    READING,
    REFERENCE,
    SEQUENCE_LOG_PROBS,
    ExampleEncoder,
    Objective,
    padded_rows,
)
from llmforge.interfaces.run import RunContext, TrackedCheckpoint, TrackedRun
from llmforge.interfaces.storage import Progress, Storage, public_url
from llmforge.interfaces.sweep import Dimension, Direction, Point, Space, Sweeper, Tie
from llmforge.interfaces.tokenizer import ChatTokenizer, Tokenizer
from llmforge.matmul_speed import MatmulSpeed

__all__ = [
    "FORMS",
    "IGNORE_INDEX",
    "PREFERENCES",
    "READING",
    "REFERENCE",
    "SEQUENCE_LOG_PROBS",
    "Adapter",
    "Backend",
    "Batch",
    "Cache",
    "ChatTokenizer",
    "Completion",
    "Continuation",
    "ContinuationUpdate",
    "ContinuousBatch",
    "ContinuousGenerator",
    "Conversation",
    "Data",
    "DeployedFile",
    "Deployment",
    "Dimension",
    "Direction",
    "Engine",
    "EngineState",
    "Example",
    "ExampleData",
    "ExampleEncoder",
    "ExampleLayout",
    "GenerationRequest",
    "Generator",
    "HuggingFaceAdapter",
    "HuggingFaceModel",
    "HuggingFaceTokenizer",
    "LabelPredictor",
    "LanguageModel",
    "LinearLayer",
    "LinearLayers",
    "MatmulSpeed",
    "Message",
    "Metric",
    "ModelFolder",
    "Needs",
    "Objective",
    "Outlook",
    "Point",
    "Preference",
    "Progress",
    "Receipt",
    "Resolution",
    "Row",
    "RowCache",
    "RunContext",
    "SequenceScorer",
    "Slice",
    "SlicedTensors",
    "SourceReader",
    "Space",
    "StepResult",
    "Storage",
    "Sweeper",
    "TextExample",
    "Tie",
    "TokenData",
    "TokenScore",
    "TokenShard",
    "Tokenizer",
    "TrackedCheckpoint",
    "TrackedRun",
    "flat_part",
    "linear_layers",
    "model_blocks",
    "padded_rows",
    "public_url",
    "weight_count",
    "whole_shape",
]
