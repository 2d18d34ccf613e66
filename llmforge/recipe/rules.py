"""Rules that tie several tables of a recipe together.

A rule sees what could be validated and says nothing about what could not; rules about one
component's own options live in that component's ``Options``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from llmforge.component import Component
from llmforge.interfaces import FORMS, PREFERENCES, READING, SEQUENCE_LOG_PROBS
from llmforge.options import Options, closest
from llmforge.plugins import address_problem, entries, load
from llmforge.ramp import doubled
from llmforge.recipe.measured import measured, selected_metrics
from llmforge.recipe.resolved import Selection
from llmforge.recipe.schema import (
    CheckpointTable,
    DataKeys,
    DeployKeys,
    EarlyStoppingTable,
    EvalTable,
    ExportTable,
    GenerationKeys,
    MetricKeys,
    StorageKeys,
    SweepKeys,
    TrainTable,
    parse_interval,
)
from llmforge.recipe.toml import KeyPath

Table = TypeVar("Table", bound=Options)

_TOKENS = "tokens"
"""What data supports that hands out token ids instead of text."""
_EXAMPLES = "examples"
"""What data supports that is not running text."""
_NEXT_TOKEN = "next_token"
_NO_TEXT = "no_text"
"""What a tokenizer supports that can be had without text."""
_ANSWERS = "answers"
"""What data supports that has prompts with answers."""
_ANSWERED = frozenset({"next_token", "seq2seq"})
"""Objectives after which a model answers."""
_CLASSIFY = "classify"
_LABELS = "labels"
"""What data supports that has texts with labels."""
_SEGMENTS = "segments"
"""What a model supports that keeps parts of a row apart."""
_TOKEN_PROMPTS = "token_prompts"
"""What a generator supports that continues token ids."""


@dataclass(frozen=True)
class Finding:
    """A broken rule: the key to blame, what is wrong and what to do."""

    path: KeyPath
    message: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The valid parts of a recipe that may still be wrong as a whole.

    Attributes:
        tables: core tables and the kinds' own keys, by table name; invalid ones are absent.
        selections: the selected components by kind; invalid ones are absent.
    """

    tables: Mapping[str, Options]
    selections: Mapping[str, tuple[Selection, ...]]

    def table(self, name: str, kind: type[Table]) -> Table | None:
        """Return the table ``name``, or None when it was not valid."""
        found = self.tables.get(name)
        return found if isinstance(found, kind) else None

    def option(self, kind: str, name: str) -> Any:
        """Return an option of the selected component, or None when there is none."""
        chosen = self.selections.get(kind)
        return getattr(chosen[0].options, name, None) if chosen else None

    def component(self, kind: str) -> type[Component] | None:
        """Return the class of the selected component, or None when there is none."""
        chosen = self.selections.get(kind)
        return load(kind, chosen[0].name) if chosen else None

    def option_path(self, kind: str, name: str) -> KeyPath:
        """Return the path of an option of the selected component."""
        return (kind, self.selections[kind][0].name, name)


def broken_rules(draft: Draft) -> Iterator[Finding]:
    """Return everything in which the parts of ``draft`` contradict each other."""
    for rule in _RULES:
        yield from rule(draft)


def length_findings(train: TrainTable, *, planned: int, extended: int | None) -> Iterator[Finding]:
    """Return where ``extend_to`` and ``stop_at`` contradict the ``planned`` steps of a run.

    Args:
        train: the table.
        planned: steps without an extension.
        extended: ``extend_to`` in steps, None without one.
    """
    if extended is not None and extended <= planned:
        message = f"{train.extend_to} does not go past the {planned} steps planned"
        yield Finding(("train", "extend_to"), message, f"more than {planned}")
    end = max(planned, extended or 0)
    if train.stop_at is not None and train.stop_at > end:
        message = f"{train.stop_at} is after the last step {end}"
        yield Finding(("train", "stop_at"), message, f"at most {end}")


def _micro_batch_divides_batch(draft: Draft) -> Iterator[Finding]:
    train = draft.table("train", TrainTable)
    if train is None or train.micro_batch_size is None:
        return
    batch, micro = train.batch_size, train.micro_batch_size
    path = ("train", "micro_batch_size")
    if micro > batch:
        yield Finding(path, f"{micro} is more than batch_size {batch}", f"at most {batch}")
    elif batch % micro:
        divisors = ", ".join(str(size) for size in range(1, batch + 1) if batch % size == 0)
        yield Finding(path, f"{micro} does not divide batch_size {batch}", f"one of {divisors}")


def _accumulation_divides_batch(draft: Draft) -> Iterator[Finding]:
    train = draft.table("train", TrainTable)
    if train is None or train.accumulation is None:
        return
    # How many processes there will be is not known here; that many equal parts there must be.
    micro = train.micro_batch_size or 1
    if train.batch_size % (train.accumulation * micro):
        parts = f"{train.accumulation} micro-batches"
        parts += f" of {micro} (micro_batch_size)" if train.micro_batch_size else ""
        yield Finding(
            ("train", "accumulation"),
            f"batch_size {train.batch_size} cannot be made of {parts}",
            "leave out one of batch_size, micro_batch_size and accumulation",
        )


def _lengths_agree(draft: Draft) -> Iterator[Finding]:
    train = draft.table("train", TrainTable)
    if train is None or train.max_steps is None or isinstance(train.extend_to, str):
        return  # what an epoch is, is known only with the data
    yield from length_findings(train, planned=train.max_steps, extended=train.extend_to)


def _warmup_ends_before_the_schedule(draft: Draft) -> Iterator[Finding]:
    train = draft.table("train", TrainTable)
    warmup = draft.option("schedule", "warmup_steps")
    total = draft.option("schedule", "total_steps") or (train.max_steps if train else None)
    if isinstance(warmup, int) and isinstance(total, int) and warmup >= total:
        message = f"warm-up of {warmup} steps does not end within the {total} steps of the schedule"
        remedy = f"less than {total}"
        yield Finding(draft.option_path("schedule", "warmup_steps"), message, remedy)


def _early_stopping_needs_evaluations(draft: Draft) -> Iterator[Finding]:
    stopping = draft.table("early_stopping", EarlyStoppingTable)
    evaluation = draft.table("eval", EvalTable)
    if stopping and evaluation and stopping.patience and evaluation.every is None:
        message = "patience counts evaluations, and none happens before the end"
        yield Finding(("early_stopping", "patience"), message, "set eval.every")


def _documents_can_be_kept_apart(draft: Draft) -> Iterator[Finding]:
    train, model = draft.table("train", TrainTable), draft.component("model")
    if train is None or not train.document_mask:
        return
    if examples := list(_needs_text(draft, "document_mask")):
        yield from examples
    elif model is not None and _SEGMENTS not in model.supports:
        name = draft.selections["model"][0].name
        message = f"model '{name}' cannot keep the documents of a window apart"
        yield Finding(("train", "document_mask"), message, 'model.name = "transformer"')


def _warmups_are_of_text_and_double(draft: Draft) -> Iterator[Finding]:
    train = draft.table("train", TrainTable)
    if train is None:
        return
    if train.batch_warmup_steps:
        yield from _needs_text(draft, "batch_warmup_steps")
        begin = train.batch_warmup_from
        yield from _doubles("batch_warmup_from", begin, train.batch_size, "batch_size")
    if train.context_warmup_steps:
        yield from _needs_text(draft, "context_warmup_steps")
        begin, context = train.context_warmup_from, draft.option("model", "context")
        if context is not None:
            yield from _doubles("context_warmup_from", begin, context, "the model's context")


def _needs_text(draft: Draft, key: str) -> Iterator[Finding]:
    data = draft.component("data")
    if data is not None and _EXAMPLES in data.supports:
        name = draft.selections["data"][0].name
        message = f"data '{name}' has examples and no running text"
        yield Finding(("train", key), message, "take it out")


def _doubles(key: str, begin: int | None, end: int, name: str) -> Iterator[Finding]:
    halves = [str(end >> by) for by in range(1, 5) if not end % (1 << by)]
    remedy = f"one of {', '.join(halves)}" if halves else f"an even number for {name}"
    if begin is None:
        yield Finding(("train", key), "is missing", remedy)
        return
    try:
        doubled(begin, end)
    except ValueError as error:
        yield Finding(("train", key), f"{error}, {name}", remedy)


def _deciding_metrics_are_measured(draft: Draft) -> Iterator[Finding]:
    stopping = draft.table("early_stopping", EarlyStoppingTable)
    sweep = draft.table("sweep", SweepKeys)
    if "metric" not in draft.selections:
        return  # a metric that is not valid may be the one
    known = measured(draft.selections)
    asked = [(("early_stopping", "metric"), stopping.metric)] if stopping else []
    if sweep and draft.selections.get("sweep") and sweep.metric.startswith("val/"):
        asked.append((("sweep", "metric"), sweep.metric))
    for path, name in asked:
        if name not in known:
            near = closest(name, known)
            message = f"'{name}' is not measured; known: {', '.join(known)}"
            yield Finding(path, message, _remedy(name, near))


def _remedy(name: str, near: str | None) -> str:
    """Return how a metric of this name is measured after all."""
    component = name.removeprefix("val/")
    if component in entries("metric"):
        return f'select it: metric.names = ["{component}"]'
    return f"did you mean '{near}'?" if near else ""


def _metrics_have_what_they_compare(draft: Draft) -> Iterator[Finding]:
    data, objective = (draft.component(kind) for kind in ("data", "objective"))
    if data is None or objective is None:
        return
    name, trained = (draft.selections[kind][0].name for kind in ("data", "objective"))
    compared: dict[str, list[str]] = {"answers": [], "labels": []}
    for metric, component in selected_metrics(draft.selections).items():
        compared[component.needs].append(metric)
    answers, labels = (", ".join(compared[needs]) for needs in ("answers", "labels"))
    path = ("metric", "names")
    if labels and _LABELS not in data.supports:
        yield Finding(path, f"data '{name}' has no labels ({labels})", 'data.name = "labelled"')
    elif labels and _CLASSIFY not in objective.supports:
        message = f"the objective '{trained}' predicts no labels ({labels})"
        yield Finding(path, message, 'objective.name = "classify"')
    if answers and _ANSWERS not in data.supports:
        message = f"data '{name}' has no answers to compare with ({answers})"
        yield Finding(path, message, 'data with prompts and answers: data.name = "instruct"')
    elif answers and not objective.supports & _ANSWERED:
        message = f"a model trained with '{trained}' gives no answers ({answers})"
        yield Finding(path, message, 'objective.name = "next_token", or "seq2seq"')
    elif answers and draft.option("data", "train_on") == "all":
        message = "when all is learned, what is an answer cannot be told, which metrics compare"
        yield Finding(draft.option_path("data", "train_on"), message, '"responses"')


def _answers_need_a_generator_that_takes_tokens(draft: Draft) -> Iterator[Finding]:
    generator = draft.component("generation")
    metrics = selected_metrics(draft.selections).values()
    if generator is None or _TOKEN_PROMPTS in generator.supports:
        return
    if any(metric.needs == "answers" for metric in metrics):
        name = draft.selections["generation"][0].name
        message = f"answers are generated from tokens, which generation '{name}' does not take"
        yield Finding(("generation", "name"), message, 'for example "sampler"')


def _metrics_are_measured_at_evaluations(draft: Draft) -> Iterator[Finding]:
    keys, evaluation = draft.table("metric", MetricKeys), draft.table("eval", EvalTable)
    if keys is None or evaluation is None or keys.every is None:
        return
    path = ("metric", "every")
    if not draft.selections.get("metric"):
        yield Finding(path, "there is no metric to measure", "set metric.names")
    elif evaluation.every is None:
        yield Finding(path, "no evaluation happens before the end", "set eval.every")
    else:
        between, wanted = parse_interval(evaluation.every), parse_interval(keys.every)
        assert between is not None
        assert wanted is not None
        if isinstance(between, int) == isinstance(wanted, int) and wanted % between:
            message = f"{keys.every} is not a multiple of eval.every, {evaluation.every}"
            yield Finding(path, message, "metrics are measured together with the loss")


def _model_sizes_are_positive(draft: Draft) -> Iterator[Finding]:
    context = draft.option("model", "context")
    if isinstance(context, int) and context <= 0:
        path = draft.option_path("model", "context")
        yield Finding(path, f"a context of {context} tokens holds nothing", "at least 1")


def _learning_rate_is_positive(draft: Draft) -> Iterator[Finding]:
    rate = draft.option("optimizer", "lr")
    if isinstance(rate, int | float) and rate <= 0:
        path = draft.option_path("optimizer", "lr")
        yield Finding(path, f"a learning rate of {rate} trains nothing", "more than 0")


def _periodic_samples_need_prompts(draft: Draft) -> Iterator[Finding]:
    generation = draft.table("generation", GenerationKeys)
    if generation and generation.every is not None and not generation.prompts:
        message = "there is nothing to sample from"
        yield Finding(("generation", "every"), message, "set generation.prompts")
    if generation and generation.tests_every is not None and not generation.tests:
        message = "there is nothing to test"
        yield Finding(("generation", "tests_every"), message, "set generation.tests")


def _disabled_checkpoints_have_no_interval(draft: Draft) -> Iterator[Finding]:
    checkpoint = draft.table("checkpoint", CheckpointTable)
    if checkpoint and not checkpoint.enabled and checkpoint.every is not None:
        message = "an interval is given, but checkpoint.enabled is false"
        yield Finding(("checkpoint", "every"), message, "take one of the two out")


def _an_export_has_a_checkpoint(draft: Draft) -> Iterator[Finding]:
    export, checkpoint = (
        draft.table("export", ExportTable),
        draft.table("checkpoint", CheckpointTable),
    )
    if export and export.at_end and checkpoint and not checkpoint.enabled:
        message = "there is no checkpoint to export: checkpoint.enabled is false"
        yield Finding(("export", "at_end"), message, "take one of the two out")


def _storage_address_is_a_url(draft: Draft) -> Iterator[Finding]:
    storage = draft.table("storage", StorageKeys)
    if storage and storage.url is not None and "://" not in storage.url.strip("/:"):
        message = f"'{storage.url}' is not a URL"
        yield Finding(("storage", "url"), message, "for example s3://bucket/runs or file:///data")


def _deleted_checkpoints_are_somewhere(draft: Draft) -> Iterator[Finding]:
    storage = draft.table("storage", StorageKeys)
    if storage is None or not storage.delete_local_after_upload or storage.url is not None:
        return
    if not draft.selections.get("tracker"):
        yield Finding(
            ("storage", "delete_local_after_upload"),
            "checkpoints are uploaded nowhere",
            "set storage.url, or select a tracker that keeps them",
        )


def _deployments_have_an_address(draft: Draft) -> Iterator[Finding]:
    deploy = draft.table("deploy", DeployKeys)
    for address in deploy.to if deploy else ():
        message, remedy = address_problem(address)
        if message:
            yield Finding(("deploy", "to"), message, remedy)


def _tokens_need_a_tokenizer_without_text(draft: Draft) -> Iterator[Finding]:
    data, tokenizer = (draft.component(kind) for kind in ("data", "tokenizer"))
    if data is None or _TOKENS not in data.supports:
        return
    name = draft.selections["data"][0].name
    if tokenizer is not None and _NO_TEXT not in tokenizer.supports:
        message = f"data '{name}' is tokens already, and this tokenizer needs text to be made"
        yield Finding(("tokenizer", "name"), message, "the tokenizer of the tokens: hf, or ids")
    keys = draft.table("data", DataKeys)
    if keys and keys.max_documents is not None:
        message = f"data '{name}' is tokens already, its documents are not counted"
        remedy = "data.tokens.max_files, or fewer steps"
        yield Finding(("data", "max_documents"), message, remedy)
    stopping = draft.table("early_stopping", EarlyStoppingTable)
    if stopping and stopping.metric == "val/bits_per_byte":
        message = f"data '{name}' is tokens already, so that the bytes of its text are not known"
        yield Finding(("early_stopping", "metric"), message, '"val/loss"')


def _objective_fits_model_and_data(draft: Draft) -> Iterator[Finding]:
    objective, model, data = (draft.component(kind) for kind in ("objective", "model", "data"))
    if objective is None or model is None:
        return
    name = draft.selections["objective"][0].name
    made_for = model.supports & FORMS or {_NEXT_TOKEN}
    if not objective.supports & (made_for | model.supports):
        message = f"the model '{draft.selections['model'][0].name}' is not made for '{name}'"
        if SEQUENCE_LOG_PROBS in objective.supports:
            message += f": its component does not say supports = {{'{SEQUENCE_LOG_PROBS}'}}"
        remedy = f"an objective it is made for: {', '.join(sorted(made_for))}"
        yield Finding(("objective", "name"), message, remedy)
    generation = draft.table("generation", GenerationKeys)
    if generation and generation.prompts and objective.supports <= READING:
        message = f"a model that is trained for '{name}' does not write"
        yield Finding(("generation", "prompts"), message, "take them out: generation.prompts = []")
    if data is not None:
        yield from _objective_fits_data(objective, name, data, draft.selections["data"][0].name)


def _objective_fits_data(
    objective: type[Component], trained: str, data: type[Component], name: str
) -> Iterator[Finding]:
    if PREFERENCES in objective.supports:
        if PREFERENCES not in data.supports:
            message = f"'{trained}' learns from pairs of answers, which data '{name}' does not have"
            yield Finding(("data", "name"), message, 'data.name = "preference"')
    elif PREFERENCES in data.supports:
        message = f"data '{name}' is pairs of answers, from which '{trained}' does not learn"
        yield Finding(("objective", "name"), message, 'objective.name = "dpo"')
    elif _EXAMPLES not in data.supports and _NEXT_TOKEN not in objective.supports:
        message = f"'{trained}' learns from examples, and data '{name}' is running text"
        yield Finding(("data", "name"), message, "the data instruct, or labelled")


_RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    _micro_batch_divides_batch,
    _accumulation_divides_batch,
    _lengths_agree,
    _warmup_ends_before_the_schedule,
    _early_stopping_needs_evaluations,
    _documents_can_be_kept_apart,
    _warmups_are_of_text_and_double,
    _deciding_metrics_are_measured,
    _metrics_have_what_they_compare,
    _answers_need_a_generator_that_takes_tokens,
    _metrics_are_measured_at_evaluations,
    _model_sizes_are_positive,
    _learning_rate_is_positive,
    _periodic_samples_need_prompts,
    _disabled_checkpoints_have_no_interval,
    _an_export_has_a_checkpoint,
    _storage_address_is_a_url,
    _deleted_checkpoints_are_somewhere,
    _deployments_have_an_address,
    _tokens_need_a_tokenizer_without_text,
    _objective_fits_model_and_data,
)
