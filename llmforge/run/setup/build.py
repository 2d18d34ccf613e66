"""Building the parts of a run: data, tokenizer, tokens and engine, each through its hook."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pluggy
import torch

from llmforge.data.audit import SplitAudit, audit
from llmforge.data.batches import TrainBatches, require_targets, train_batches
from llmforge.data.chat_template import ChatTemplate, chat_template
from llmforge.data.example_batches import ExampleBatches
from llmforge.data.example_rows import ExampleSplit, prepare_examples
from llmforge.data.order import Epochs
from llmforge.data.prompts import ChatPrompts, PromptLayout, source_prompts
from llmforge.data.shards import TokenSplit
from llmforge.data.tokens import prepare_tokens
from llmforge.errors import DataError, Problem, RecipeError
from llmforge.interfaces import (
    SEQUENCE_LOG_PROBS,
    ChatTokenizer,
    Data,
    Engine,
    ExampleData,
    Objective,
    RunContext,
    TokenData,
    Tokenizer,
)
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Recipe
from llmforge.recipe.rules import length_findings
from llmforge.recipe.schema import parse_interval
from llmforge.recipe.toml import dotted
from llmforge.run.plan import make_plan
from llmforge.run.setup.example_packing import packs_examples
from llmforge.run.setup.limited_data import LimitedData, LimitedExamples, LimitedParts
from llmforge.run.setup.model_build import BuiltModel, ModelBuilder
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import sync_directory

_CONTINUING = frozenset({Objective.form, SEQUENCE_LOG_PROBS})
"""Forms of objectives after which a model continues a conversation as the template lays it out."""

AnyData = Data | TokenData | ExampleData


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Data as tokens, with the fingerprints that a resume must find again.

    Attributes:
        data: what was opened.
        tokenizer: of the run.
        splits: tokens, or rows of tokens.
        batches: of the training split.
        template: how conversations are laid out; None for text.
    """

    data: AnyData
    tokenizer: Tokenizer
    splits: Mapping[str, TokenSplit | ExampleSplit]
    batches: TrainBatches | ExampleBatches
    template: ChatTemplate | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Return what identifies the training data."""
        return fingerprints(self.data, self.tokenizer, self.splits)

    @property
    def objective(self) -> Objective:
        """Return what made the rows; next-token prediction for text."""
        train = self.splits["train"]
        return train.objective if isinstance(train, ExampleSplit) else Objective()

    @property
    def packed(self) -> bool:
        """Return whether rows hold several examples each."""
        return isinstance(self.batches, ExampleBatches) and self.batches.packed

    @property
    def longest_row(self) -> int:
        """Return how many tokens a row has at most: of several sequences each has the context."""
        return self.batches.context * self.objective.sequences

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the labels; none where texts have none."""
        return tuple(getattr(self.data, "labels", ()))

    @property
    def prompts(self) -> PromptLayout | None:
        """Return what lays out prompts as examples are; None for running text."""
        train = self.splits["train"]
        if not isinstance(train, ExampleSplit) or not isinstance(self.tokenizer, ChatTokenizer):
            return None
        if self.template is not None:
            return ChatPrompts(self.template, self.tokenizer)
        return source_prompts(train.objective, self.tokenizer, context=self.batches.context)

    def audits(self) -> dict[str, SplitAudit]:
        """Return what is worth knowing of the examples, by split; nothing of running text."""
        splits = {
            name: split for name, split in self.splits.items() if isinstance(split, ExampleSplit)
        }
        return audit(splits, self.tokenizer)

    def files(self, sequences: int) -> dict[str, Any]:
        """Return how many files the data has and how many are used up after ``sequences``.

        Shards are used up one after the other, again in every epoch; text is read whole before
        the first step.
        """
        if len(self.splits["train"].shards) > 1:
            return self.batches.files(sequences)
        count = len(getattr(self.data, "files", ()))
        return {"files": count, "files_processed": count}


def fingerprints(
    data: AnyData, tokenizer: Tokenizer, splits: Mapping[str, TokenSplit | ExampleSplit]
) -> dict[str, str]:
    """Return what identifies data and how it became tokens."""
    found = {"data": data.fingerprint, "tokenizer": tokenizer.fingerprint}
    if isinstance(train := splits["train"], ExampleSplit):
        found["template"] = train.template
    return found


def prepare_data(
    manager: pluggy.PluginManager,
    run: RunContext,
    directory: RunDirectory,
    *,
    check_stop: Callable[[], None],
    verify: bool = False,
) -> PreparedData:
    """Open the data, make or load the tokenizer, tokenise; ``verify`` hashes what is cached.

    Raises:
        DataError: data is missing or too little.
        StopNow: a signal arrived.
    """
    data = open_data(manager, run)
    check_stop()
    tokenizer = run_tokenizer(manager, run, directory, data)
    check_stop()
    objective: Objective = call_factory(manager, "forge_build_objective", run=run)
    splits = prepare_splits(
        data,
        tokenizer,
        objective=objective,
        context=run.context,
        cache=run.cache,
        notice=run.notice,
        check_stop=check_stop,
        packed=packs_examples(data, run, objective),
        document_mask=run.train.document_mask,
        verify=verify,
    )
    if "train" not in splits:
        raise DataError(f"the data has no split named 'train', only {', '.join(splits)}")
    with _too_little_named(data, run):
        if isinstance(validation := splits.get("validation"), TokenSplit):
            require_targets(validation, name="validation")
        batches = training_batches(splits["train"], run)
    template = None
    if isinstance(data, ExampleData) and objective.form in _CONTINUING:
        template = chat_template(data.layout, tokenizer)
    return PreparedData(
        data=data, tokenizer=tokenizer, splits=splits, batches=batches, template=template
    )


def prepare_splits(
    data: AnyData,
    tokenizer: Tokenizer,
    *,
    objective: Objective,
    context: int,
    cache: Path,
    notice: Callable[[str], None],
    check_stop: Callable[[], None],
    packed: bool,
    document_mask: bool,
    verify: bool = False,
) -> Mapping[str, TokenSplit | ExampleSplit]:
    """Return the splits of any data as tokens, or as rows of tokens, which may be ``packed``.

    Raises:
        DataError: the data cannot be used, or the cache cannot be written.
    """
    if isinstance(data, ExampleData):
        return prepare_examples(
            data,
            tokenizer,
            objective=objective,
            context=context,
            cache=cache,
            notice=notice,
            check_stop=check_stop,
            packed=packed,
            verify=verify,
        )
    splits = prepare_tokens(
        data, tokenizer, cache=cache, notice=notice, check_stop=check_stop, verify=verify
    )
    if not document_mask:
        return splits
    divided_at = tokenizer.eos_id if tokenizer.eos_id is not None else getattr(data, "eos_id", None)
    if divided_at is None:
        raise DataError(
            "train.document_mask: the tokenizer has no end-of-text token that documents end with",
            remedy="take another tokenizer, or set train.document_mask to false",
        )
    return {
        name: dataclasses.replace(split, divided_at=divided_at) for name, split in splits.items()
    }


def training_batches(
    split: TokenSplit | ExampleSplit, run: RunContext
) -> TrainBatches | ExampleBatches:
    """Return the batches of the training split, as the run draws them.

    Raises:
        DataError: there are too few tokens.
    """
    options: dict[str, Any] = {
        "context": run.context,
        "seed": run.seed,
        "pin_memory": torch.cuda.is_available(),
    }
    if isinstance(split, TokenSplit):
        return train_batches(split, batch_size=run.train.batch_sizes, **options)
    return ExampleBatches(split, batch_size=run.train.batch_size, **options)


@contextlib.contextmanager
def _too_little_named(data: AnyData, run: RunContext) -> Iterator[None]:
    """Say in an error about the size of a split which data it is of, and which keys to change."""
    try:
        yield
    except DataError as error:
        tables = {kind: f"{kind}.{run.config[kind]['name']}" for kind in ("data", "model")}
        raise DataError(
            f"{data.description}: {error.message}",
            remedy=f"give more text in [{tables['data']}], or set a smaller "
            f"{tables['model']}.context",
        ) from error


def open_data(manager: pluggy.PluginManager, run: RunContext) -> AnyData:
    """Open the data of a run, cut to ``data.max_documents`` when the recipe says so."""
    data: AnyData = call_factory(manager, "forge_build_data", run=run)
    limit = run.config["data"].get("max_documents")
    if limit is None or isinstance(data, TokenData):  # a recipe that asks for both is refused
        return data
    if isinstance(data, ExampleData):
        return LimitedExamples(data, max_documents=limit)
    limited = LimitedParts if hasattr(data, "iter_parts") else LimitedData
    return limited(data, max_documents=limit)


def run_tokenizer(
    manager: pluggy.PluginManager, run: RunContext, directory: RunDirectory, data: AnyData
) -> Tokenizer:
    """Return the run's tokenizer: the saved one, else a new one that is saved first."""
    if directory.tokenizer.is_dir():
        loaded: Tokenizer = call_factory(
            manager, "forge_load_tokenizer", run=run, directory=directory.tokenizer
        )
        return loaded
    built: Tokenizer = call_factory(manager, "forge_build_tokenizer", run=run, data=data)
    temporary = directory.path / ".tokenizer"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    built.save(temporary)
    temporary.rename(directory.tokenizer)
    sync_directory(directory.path)
    return built


def check_fingerprints(old: dict[str, str], new: dict[str, str], *, allow_change: bool) -> None:
    """Refuse to continue with other data than the run was started with.

    Raises:
        DataError: a fingerprint differs and ``allow_change`` is not set.
    """
    changed = [name for name, value in new.items() if old.get(name, value) != value]
    if changed and not allow_change:
        raise DataError(
            f"the {' and the '.join(changed)} of this run changed since it was started",
            remedy="restore what it was, or continue knowingly with --allow-data-change",
        )


def run_length(recipe: Recipe, epochs: Epochs) -> tuple[int, int]:
    """Return the planned length of the run, and where it ends, extended or not, in steps.

    Raises:
        RecipeError: another length contradicts it; of epochs this is known only with the data.
    """
    train = recipe.train
    assert train.max_steps is not None or train.epochs is not None
    planned = epochs.end(train.epochs) if train.max_steps is None else train.max_steps  # type: ignore[arg-type]
    extended = parse_interval(train.extend_to)
    if isinstance(extended, Fraction):
        extended = epochs.end(extended)
    problems = [
        Problem(key=dotted(found.path), message=found.message, remedy=found.remedy)
        for found in length_findings(train, planned=planned, extended=extended)
    ]
    if problems:
        raise RecipeError(problems, source=str(recipe.source))
    return planned, extended or planned


def prepare_engine(
    manager: pluggy.PluginManager,
    run: RunContext,
    prepared: PreparedData,
) -> tuple[Engine, BuiltModel]:
    """Build model, optimizer and schedule through the backend; say what of the model trains.

    One rank of each machine hashes what is frozen. The loss is the objective's if it has its own.
    """
    builder = ModelBuilder(
        manager,
        run,
        prepared.tokenizer,
        objective=prepared.objective,
        hashes=run.local_rank == 0,
    )

    def optimizer_factory(parameters: list[tuple[str, Any]]) -> Any:
        return call_factory(manager, "forge_build_optimizer", run=run, parameters=parameters)

    schedule = call_factory(manager, "forge_build_schedule", run=run)
    backend = call_factory(manager, "forge_build_backend", run=run)
    engine: Engine = backend.prepare(builder, optimizer_factory, schedule)
    assert builder.built is not None, "the backend built no model"
    return engine, builder.built


def with_steps(run: RunContext, *, total_steps: int) -> RunContext:
    """Return ``run`` with its length known; the schedule spans all of it."""
    return dataclasses.replace(run, total_steps=total_steps, schedule_steps=total_steps)


@contextlib.contextmanager
def data_ahead(
    recipe: Recipe, *, notice: Callable[[str], None], verify: bool = False
) -> Iterator[tuple[RunContext, PreparedData]]:
    """Prepare the data of ``recipe`` without a run.

    Raises:
        DataError: data is missing or too little.
    """
    selected = [recipe.selected(kind) for kind in ("data", "tokenizer", "objective")]
    manager = build_manager([load(item.kind, item.name)(item.options) for item in selected])
    run = make_plan(recipe).context(resolved={}, notice=notice)
    with tempfile.TemporaryDirectory() as scratch:
        directory = RunDirectory(Path(scratch))
        yield (
            run,
            prepare_data(manager, run, directory, check_stop=lambda: None, verify=verify),
        )


def prepare_ahead(
    recipe: Recipe, *, notice: Callable[[str], None], verify: bool = False
) -> dict[str, Any]:
    """Download and tokenise the data of ``recipe`` into the cache; report what lies where.

    With ``verify`` all of what is cached is hashed, not only looked at.

    Raises:
        DataError: data is missing or too little.
    """
    with data_ahead(recipe, notice=notice, verify=verify) as (run, prepared):
        pass
    return {
        "data": prepared.data.description,
        "fingerprint": prepared.data.fingerprint,
        "cache": str(run.cache),
        "vocab_size": prepared.tokenizer.vocab_size,
        "splits": {
            name: {
                "tokens": split.n_tokens,
                "bytes": split.n_bytes,
                "documents": split.documents,
                "paths": [str(path) for path in files],
                "size": sum(path.stat().st_size for path in files),
            }
            for name, split, files in _files(prepared.splits)
        },
    }


def _files(
    splits: Mapping[str, TokenSplit | ExampleSplit],
) -> Iterator[tuple[str, TokenSplit | ExampleSplit, list[Path]]]:
    for name, split in splits.items():
        yield name, split, list(dict.fromkeys(shard.path for shard in split.shards))
