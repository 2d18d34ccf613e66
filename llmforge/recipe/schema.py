"""The core tables of a recipe, and the keys that a kind's own table carries besides components.

The docstring below a field is its documentation in ``forge recipe schema`` and the docs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from llmforge.options import MACHINE, SAFE, Options
from llmforge.ramp import Ramp
from llmforge.recipe.generation_tests import GenerationTest
from llmforge.recipe.notify import NotifyTable

_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")

PLACEHOLDERS = ("{model}", "{profile}", "{timestamp}", "{run_id}")
"""What ``run.name`` may have filled in."""

EVALUATED = ("val/loss", "val/perplexity", "val/bits_per_byte")
"""Metrics that an evaluation measures."""

Interval = Annotated[int | str, "steps, or 'N epoch'"]
Positive = Annotated[int, Field(gt=0)]


def check_interval(value: int | str | None) -> int | str | None:
    """Accept a positive number of steps or text like ``"1 epoch"``."""
    if isinstance(value, int) and value <= 0:
        raise ValueError("must be at least 1 step")
    if isinstance(value, str) and not parse_interval(value):
        raise ValueError(f"must be a number of steps or text like '1 epoch', got '{value}'")
    return value


def check_id(value: str | None) -> str | None:
    """Accept a text that can name a directory, or None."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", value):
        raise ValueError(
            "an id starts with a letter or digit and has only letters, digits and ._+-"
        )
    return value


def check_placeholders(value: str) -> str:
    """Accept a text whose braces hold nothing but :data:`PLACEHOLDERS`."""
    unknown = [item for item in re.findall(r"{[^{}]*}?|}", value) if item not in PLACEHOLDERS]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not a placeholder; known: {', '.join(PLACEHOLDERS)}")
    return value


def parse_interval(value: int | str | None) -> int | Fraction | None:
    """Return steps as they are and text like ``"0.5 epoch"`` as epochs; None for other text."""
    if not isinstance(value, str):
        return value
    match = _EPOCHS.fullmatch(value)
    return None if match is None else Fraction(match[1])


class RunTable(Options):
    """``[run]``: name, place and logging of the run."""

    root: Annotated[str, MACHINE] = "runs"
    """Directory that holds all runs; ``FORGE_RUN_ROOT`` sets it too."""
    seed: int = 1337
    """Seed of everything random."""
    id: Annotated[str | None, SAFE] = None
    """An id of your own instead of the one made from batch, context, rate and hash."""
    name: Annotated[str, SAFE] = "{model}-{profile}-{timestamp}"
    """Display name in trackers, fixed at the first start; ``{model}``, ``{profile}``,
    ``{timestamp}`` and ``{run_id}`` are filled in."""
    project: Annotated[str, SAFE] = ""
    """Project in trackers that have projects."""
    tags: Annotated[list[str], SAFE] = Field(default_factory=list)
    """Labels for trackers and ``forge runs list``."""
    notes: Annotated[str, SAFE] = ""
    """Free text kept with the run."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], SAFE] = "info"
    """How much is logged, in the file and on the screen; for the screen ``-v`` and ``-q`` win."""
    log_file: Annotated[str, SAFE] = "log.txt"
    """Log file in the run directory: a name that ends in ``.txt`` or ``.log``."""

    _check_name = field_validator("name")(check_placeholders)

    _check_id = field_validator("id")(check_id)

    @field_validator("log_file")
    @classmethod
    def _own_log_file(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or path.suffix not in (".txt", ".log"):
            raise ValueError(f"must be a name like log.txt or logs/train.log, got '{value}'")
        return value


class TrainTable(Options):
    """``[train]``: how long, how much at a time, with which numbers."""

    max_steps: Positive | None = None
    """Optimizer steps to take; give this or ``epochs``."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training data; give this or ``max_steps``."""
    stop_at: Annotated[Positive | None, SAFE] = None
    """Stop after this step, the schedule still spanning the full length; resumable."""
    extend_to: Annotated[Interval | None, SAFE] = None
    """Continue past the planned end to this step, or epoch as in ``"3 epochs"`` (``--extend``), the
    schedule at its last value."""
    batch_size: Positive = 16
    """Sequences per optimizer step, over all devices."""
    batch_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Take smaller batches of text in so many first steps, twice as large at each stage (as Brown
    et al. 2020, whose batches grew evenly)."""
    batch_warmup_from: Positive | None = None
    """Sequences of the first batch; doubling it leads to ``batch_size``."""
    micro_batch_size: Annotated[Positive | None, MACHINE] = None
    """Sequences computed at once on a device; found by itself when absent."""
    accumulation: Annotated[Positive | None, MACHINE] = None
    """Micro-batches that a device adds up for one step; ``batch_size`` is ``micro_batch_size``
    times this times the number of processes: give two of the three, the third follows."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], MACHINE] = "auto"
    """Number format of the matrix products; weights stay fp32."""
    compile: Annotated[Literal["auto"] | bool, MACHINE] = "auto"
    """Whether to use ``torch.compile``."""
    activation_checkpointing: Annotated[Literal["none", "full"] | Positive, MACHINE] = "none"
    """Keep only the inputs of the model's blocks and compute them again in the backward pass, for
    less memory and a third more work: ``"full"`` for every block, ``n`` for every n-th."""
    device: Annotated[str, MACHINE] = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    document_mask: bool = False
    """Let no position see another document than its own, where a window of text holds several; an
    end-of-text token is the first of the document after it."""
    context_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Cut the windows of text into shorter ones in so many first steps, twice as long at each
    stage; a step has the same tokens, and evaluation the whole context."""
    context_warmup_from: Positive = 32
    """Tokens of a window at the first step; doubling it leads to the model's context."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    log_every: Annotated[Positive, SAFE] = 10
    """Steps between two rows of metrics."""
    system_every: Annotated[float, SAFE, Field(ge=0)] = 30.0
    """Seconds between two samples of processor, memory, disk and GPU; 0 takes none."""
    histograms_every: Annotated[Interval | None, SAFE] = None
    """Steps, or ``"1 epoch"``, between histograms of weights and gradients; absent: none."""

    _check_intervals = field_validator("extend_to", "histograms_every")(check_interval)

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", value):
            raise ValueError(f"must be auto, cpu, cuda, cuda:N or mps, got '{value}'")
        return value

    @model_validator(mode="before")
    @classmethod
    def _batch_follows(cls, values: Any) -> Any:
        # Of one process: of several, the product is held against batch_size when they start.
        if not isinstance(values, dict) or "batch_size" in values:
            return values
        micro, accumulation = values.get("micro_batch_size"), values.get("accumulation")
        if not isinstance(micro, int) or not isinstance(accumulation, int):
            return values
        return {**values, "batch_size": micro * accumulation}

    @model_validator(mode="after")
    def _one_length(self) -> TrainTable:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        return self

    @property
    def batch_sizes(self) -> Ramp:
        """Sequences of each step of text, over all devices."""
        return Ramp(self.batch_size, begin=self.batch_warmup_from, steps=self.batch_warmup_steps)


class EvalTable(Options):
    """``[eval]``: measuring on the validation split."""

    every: Interval | None = None
    """Steps, or ``"1 epoch"``, between evaluations; absent: only at the end."""
    batch_size: Annotated[Positive | None, MACHINE] = None
    """Sequences evaluated at once; when absent as many as fit and are fast, 4,096 to 32,768
    tokens."""

    _check_every = field_validator("every")(check_interval)


class EarlyStoppingTable(Options):
    """``[early_stopping]``: stop when the validation metric no longer improves."""

    metric: str = "val/loss"
    """Metric that decides, also about the best checkpoint: ``val/loss``, ``val/perplexity``,
    ``val/bits_per_byte`` or a value of a selected metric, such as ``val/chrf``."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations without improvement before stopping; 0 never stops early."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest improvement that counts."""


class CheckpointTable(Options):
    """``[checkpoint]``: when checkpoints are written and which are kept."""

    every: Annotated[Interval | None, SAFE] = None
    """Steps, or ``"1 epoch"``, between checkpoints; absent: best, last and on a signal only."""
    keep_last: Annotated[Positive, SAFE] = 3
    """Newest checkpoints to keep."""
    keep_best: Annotated[int, SAFE, Field(ge=0)] = 1
    """Checkpoints to keep that were the best when they were saved; the best of all always stays."""
    enabled: Annotated[bool, SAFE] = True
    """False writes no checkpoint at all: for benchmarks and throw-away runs."""

    _check_every = field_validator("every")(check_interval)


class ExportTable(Options):
    """``[export]``: a folder for other programs, written when the run has ended."""

    at_end: Annotated[bool, SAFE] = False
    """Write the best checkpoint, else the last, to ``export/`` in the run directory when the run
    completes or stops early, as ``forge export`` does."""
    format: Annotated[Literal["hf", "safetensors", "gguf"], SAFE] = "hf"
    """``hf`` for transformers, ``safetensors`` for the weights under their own names, ``gguf`` for
    llama.cpp."""
    merge: Annotated[bool, SAFE] = False
    """Add the weights of an adapter to the model, instead of writing them alone."""
    dtype: Annotated[Literal["fp32", "bf16", "fp16", "q8_0"] | None, SAFE] = None
    """Number format of the weights, fp32 when absent; ``q8_0`` is for ``gguf`` only."""

    @model_validator(mode="after")
    def _fits_together(self) -> ExportTable:
        if self.dtype == "q8_0" and self.format != "gguf":
            raise ValueError('dtype = "q8_0" needs format = "gguf"')
        return self


class DataKeys(Options):
    """Keys of ``[data]`` shared by every kind of data."""

    max_documents: Positive | None = None
    """Train on this many documents only, the first ones; ``--samples`` sets it too."""


class GenerationKeys(Options):
    """Keys of ``[generation]`` shared by every generator."""

    prompts: Annotated[list[str], SAFE] = Field(default_factory=list)
    """Prompts sampled at the end of training and by ``forge generate``."""
    chat: Annotated[bool | None, SAFE] = None
    """Whether prompts are messages that the model answers, laid out by the run's chat template, or
    text to continue; absent: messages where the run has a template."""
    system: Annotated[str | None, SAFE] = None
    """System message before each prompt that is a message."""
    samples: Annotated[Positive, SAFE] = 1
    """Continuations per prompt."""
    seed: Annotated[int, SAFE] = 0
    """Seed of sampling."""
    every: Annotated[Interval | None, SAFE] = None
    """Also sample at this interval while training."""
    tests: Annotated[str | list[GenerationTest] | None, SAFE] = None
    """Prompts with checks of the responses, reported in ``examples.json``: a file with a JSON
    object a line, or ``[[generation.tests]]`` tables."""
    tests_every: Annotated[Interval | None, SAFE] = None
    """Also put the tests to the model at this interval while training."""
    checkpoint: Annotated[str | None, SAFE] = None
    """Run or checkpoint ``forge generate --recipe`` samples from."""

    _check_every = field_validator("every", "tests_every")(check_interval)


class MetricKeys(Options):
    """Keys of ``[metric]`` shared by every metric."""

    rows: Annotated[int, SAFE, Field(ge=0)] = 64
    """Validation rows that answers are generated for, the first ones; 0 takes all."""
    max_new_tokens: Annotated[Positive, SAFE] = 128
    """Longest answer, in tokens."""
    every: Annotated[Interval | None, SAFE] = None
    """Steps, or ``"1 epoch"``, between evaluations that measure them too; absent: each one. The
    last evaluation always does."""

    _check_every = field_validator("every")(check_interval)


class TrackerKeys(Options):
    """Keys of ``[tracker]`` shared by every tracker."""

    on_error: Annotated[Literal["warn", "raise"], SAFE] = "warn"
    """What a failing tracker does to the run."""
    close_timeout: Annotated[float, SAFE, Field(gt=0)] = 30.0
    """Seconds trackers get to deliver the rest when the run ends."""


class BackendKeys(Options):
    """Keys of ``[backend]`` shared by every backend."""

    timeout_seconds: Annotated[float, MACHINE, Field(gt=0)] = 600.0
    """Seconds after which a process of the run that does not answer the others counts as dead."""


class StorageKeys(Options):
    """Keys of ``[storage]`` shared by every storage."""

    url: Annotated[str | None, SAFE] = None
    """Where the run is mirrored, any fsspec URL; its scheme picks the component."""
    resume: Annotated[bool, SAFE] = True
    """Continue from storage when it is further than this machine, or when nothing is here."""
    archive: Annotated[Literal["none", "tar.gz", "tar.zst"], SAFE] = "none"
    """Upload a checkpoint as its files, or as one archive."""
    background: Annotated[bool, SAFE] = True
    """Upload while training continues; false uploads and verifies before the next step."""
    delete_local_after_upload: Annotated[bool, SAFE] = False
    """Delete verified checkpoints here; the newest and the best always stay. Without a ``url``,
    those count that a tracker keeps for good (``log_checkpoints = "all"``)."""
    queue: Annotated[Positive, SAFE] = 4
    """Checkpoints kept for an upload that is late; newest and best are kept beyond it."""
    concurrency: Annotated[Positive, SAFE] = 4
    """Files uploaded at once."""
    max_megabytes_per_second: Annotated[float | None, SAFE, Field(gt=0)] = None
    """Bandwidth that uploads may use together, in 10^6 bytes per second; absent: all."""
    stall_seconds: Annotated[float, SAFE, Field(gt=0)] = 60.0
    """Seconds without progress after which a call is given up and tried again."""
    grace_seconds: Annotated[float | None, SAFE, Field(ge=0)] = None
    """Seconds uploads get when the run is stopped; absent: 30 after Ctrl-C, 0 after SIGTERM."""
    close_timeout: Annotated[float, SAFE, Field(gt=0)] = 600.0
    """Seconds uploads get to finish when the run has ended."""
    on_error: Annotated[Literal["warn", "raise"], SAFE] = "warn"
    """What a failing storage does to the run."""


class DeployKeys(Options):
    """Keys of ``[deploy]`` shared by every target."""

    to: Annotated[list[str], SAFE] = Field(default_factory=list)
    """Where ``forge deploy RUN`` deploys to: ``hf://OWNER/NAME``, ``mlflow:NAME``, or the URL of a
    folder in a storage, such as ``s3://bucket/models/tiny``."""
    format: Annotated[Literal["hf", "safetensors", "gguf"], SAFE] = "hf"
    """Format of the folder, as ``forge export --format``."""
    merge: Annotated[bool, SAFE] = False
    """Deploy the whole model, with the weights of an adapter added to it."""
    dtype: Annotated[Literal["fp32", "bf16", "fp16", "q8_0"] | None, SAFE] = None
    """Number format of the weights, as ``forge export --dtype``; absent: fp32."""
    licence: Annotated[str | None, SAFE, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] = None
    """Licence for the model card, as the hub names them, such as ``mit`` or ``apache-2.0``; absent:
    that of the pre-trained model it began from, where that is known."""
    private: Annotated[bool, SAFE] = True
    """Let nobody but its owner see a repository that is made; false makes a public one."""
    archive: Annotated[Literal["none", "tar.gz"], SAFE] = "none"
    """Put the folder into a storage as its files, or as ``model.tar.gz``."""

    @field_validator("to")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        for address in value:
            if value.count(address) > 1:
                raise ValueError(f"'{address}' is listed twice")
        return value

    @model_validator(mode="after")
    def _number_format_of_gguf(self) -> DeployKeys:
        if self.dtype == "q8_0" and self.format != "gguf":
            raise ValueError('dtype "q8_0" needs format "gguf"')
        return self


class SweepKeys(Options):
    """Keys of ``[sweep]`` shared by every sweeper."""

    id: Annotated[str | None, SAFE] = None
    """An id of your own instead of the one made from the recipe's name and hash."""
    metric: Annotated[str, SAFE] = "val/loss"
    """What is optimised: a metric of the trials, its best value over each trial."""
    direction: Annotated[Literal["minimize", "maximize"], SAFE] = "minimize"
    """Whether less of the metric is better, or more; when absent, as a selected metric itself has
    it."""
    max_trials: Annotated[Positive, SAFE] = 20
    """Points of the space to try; a larger number later extends the sweep."""
    max_hours: Annotated[float | None, SAFE, Field(gt=0)] = None
    """Hours of training, over all trials together, after which none begins; absent: no limit."""
    max_failures: Annotated[int, SAFE, Field(ge=0)] = 3
    """Trials that may fail; one more ends the sweep."""
    seeds: Annotated[Positive, SAFE] = 1
    """Runs of each point, with ``run.seed`` and those after it; their mean is what counts."""
    seed: Annotated[int, SAFE] = 0
    """Seed of what is proposed."""
    trial_name: Annotated[str, SAFE] = "{run_id}"
    """Display name of trials in trackers, as ``run.name``."""
    workers: Annotated[Positive, SAFE] = 1
    """Trials that run at once on this machine; ``--workers`` sets it too."""
    gpus_per_trial: Annotated[int | None, SAFE, Field(ge=0)] = None
    """GPUs that each trial has to itself; absent: one each when there are enough, 0: all share."""
    lease_seconds: Annotated[float, SAFE, Field(ge=1)] = 60.0
    """Seconds without a sign of life after which a worker on another machine counts as dead."""
    study: Annotated[str | None, SAFE] = None
    """Database that keeps the trials, for several machines: an Optuna URL such as
    ``postgresql+psycopg://host/name``, without a password; absent: a file of the sweep."""
    space: Annotated[dict[str, Any], SAFE] = Field(default_factory=dict)
    """What is tried: recipe keys, each with a table such as ``{log = [1e-4, 1e-2]}``."""

    _check_id = field_validator("id")(check_id)
    _check_trial_name = field_validator("trial_name")(check_placeholders)


class NoKeys(Options):
    """A kind's table without keys of its own."""


CORE_TABLES: Mapping[str, type[Options]] = {
    "run": RunTable,
    "train": TrainTable,
    "eval": EvalTable,
    "early_stopping": EarlyStoppingTable,
    "checkpoint": CheckpointTable,
    "export": ExportTable,
    "notify": NotifyTable,
}

KIND_KEYS: Mapping[str, type[Options]] = {
    "data": DataKeys,
    "generation": GenerationKeys,
    "metric": MetricKeys,
    "backend": BackendKeys,
    "tracker": TrackerKeys,
    "storage": StorageKeys,
    "deploy": DeployKeys,
    "sweep": SweepKeys,
}

DEFAULT_COMPONENTS: Mapping[str, Any] = {
    "tokenizer": "bpe",
    "objective": "next_token",
    "optimizer": "adamw",
    "schedule": "cosine",
    "backend": "auto",
    "generation": "sampler",
    "tracker": (),
    "callback": (),
    "metric": (),
}
"""Selected when a recipe does not say; ``model`` and ``data`` must be named."""

BY_ADDRESS = frozenset({"storage", "deploy"})
"""Kinds whose components are picked by an address instead of their name."""

LATER_KINDS = frozenset({"objective"})
"""Kinds that came when there were runs already: their default is left out of resolved recipes and
changes the id of no run."""


@dataclass(frozen=True)
class Alternatives:
    """Keys of one table that exclude each other: a later layer's choice replaces an earlier one.

    ``table`` is the table's path, ``*`` standing for any component; with ``below`` every table
    inside it is meant.
    """

    table: tuple[str, ...]
    names: frozenset[str]
    below: bool = False


ALTERNATIVES = (
    Alternatives(("train",), frozenset({"max_steps", "epochs"})),
    Alternatives(("schedule", "*"), frozenset({"warmup", "warmup_steps"})),
    Alternatives(
        ("sweep", "space"), frozenset({"choice", "uniform", "int", "log", "tied"}), below=True
    ),
)
