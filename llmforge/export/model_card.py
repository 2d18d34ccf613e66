"""The model card: ``README.md`` of an exported folder, with the metadata that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.export.benchmark_results import table_rows
from llmforge.export.run_facts import RunFacts
from llmforge.export.usage import usage
from llmforge.interfaces import HuggingFaceTokenizer
from llmforge.plugins import load

if TYPE_CHECKING:
    from llmforge.generation.load import LoadedModel

CURVES = "curves.png"

_NAMES = {
    "val/loss": "Loss (cross-entropy, nats per token)",
    "val/perplexity": "Perplexity",
    "val/bits_per_byte": "Bits per byte",
}
_TASKS = {
    "next_token": ("text-generation", "Text generation"),
    "seq2seq": ("text2text-generation", "Text to text"),
    "mlm": ("fill-mask", "Fill mask"),
    "classify": ("text-classification", "Text classification"),
}
_LIBRARIES = {"hf": "transformers", "safetensors": "llmforge", "gguf": "gguf"}
_NEW_TOKENS = 40
_PROMPTS = {"chat": "Name three rivers.", "text": "The history of"}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card tells.

    Attributes:
        run: of the run.
        layout: of the folder.
        alone: whether the folder has an adapter without the model it changes.
        dtype: of the weights.
        parameters: of the whole model, shared ones once.
        trained: those that were trained.
        licence: that was chosen for it, as the hub names licences; None for that of the base.
        form: of the model.
        model: name of the model component.
        base: the published model it began from: ``repository`` and ``commit``; empty where none.
        adapter: name of the adapter; None without one.
        chat: whether it answers messages.
        has_tokenizer: whether ``AutoTokenizer`` reads the folder.
        labels: of the data.
        context: longest sequence in tokens.
    """

    run: RunFacts
    layout: str
    alone: bool
    dtype: str
    parameters: int
    trained: int
    licence: str | None
    form: str
    model: str
    base: Mapping[str, str]
    adapter: str | None
    chat: bool
    has_tokenizer: bool
    labels: tuple[str, ...]
    context: int

    @classmethod
    def of(
        cls,
        run: RunFacts,
        loaded: LoadedModel,
        *,
        layout: str,
        alone: bool,
        dtype: str,
        parameters: int,
        licence: str | None = None,
    ) -> CardFacts:
        """Return what there is to tell of a loaded checkpoint."""
        frozen = loaded.checkpoint.manifest.frozen
        return cls(
            run=run,
            layout=layout,
            alone=alone,
            dtype=dtype,
            parameters=parameters,
            licence=licence,
            trained=parameters - (frozen.parameters if frozen else 0),
            form=loaded.run.form,
            model=loaded.recipe.selected("model").name,
            base=dict(getattr(loaded.model, "resolution", {})),
            adapter=run.tables.get("adapter", {}).get("name"),
            chat=loaded.chat is not None and loaded.run.form == "next_token",
            has_tokenizer=isinstance(loaded.tokenizer, HuggingFaceTokenizer),
            labels=loaded.run.labels,
            context=loaded.recipe.context,
        )


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write ``README.md`` and the picture of the curves into ``folder``."""
    from huggingface_hub import ModelCard

    from llmforge.insight.plots import loss_curve

    picture = loss_curve(facts.run.rows, title_of=facts.run.run_id)
    if picture is not None:
        (folder / CURVES).write_bytes(picture)
    parts = [
        f"# {facts.run.run_id}",
        _about(facts, folder),
        *_use(facts, folder),
        *_data(facts),
        *_training(facts, has_curves=picture is not None),
        *_evaluation(facts),
        *_limits(facts),
    ]
    text = "\n\n".join(parts)
    card = ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}\n")
    (folder / "README.md").write_text(str(card), encoding="utf-8")


# Metadata --------------------------------------------------------------------------------------


def _metadata(facts: CardFacts) -> Any:
    from huggingface_hub import ModelCardData

    data = _data_source(facts)
    task = _TASKS.get(facts.form)
    tags = ["llmforge"]
    tags += ["conversational"] if facts.chat else []
    tags += [facts.adapter] if facts.adapter else []
    tags += ["gguf"] if facts.layout == "gguf" else []
    results = _results(facts)
    return ModelCardData(
        license=_licence(facts),
        base_model=facts.base.get("repository"),
        base_model_relation=_relation(facts),
        datasets=[data["repository"]] if "repository" in data else None,
        language=data.get("language"),
        library_name="peft" if facts.alone else _LIBRARIES[facts.layout],
        pipeline_tag=task[0] if task else None,
        tags=tags,
        model_name=facts.run.run_id if results else None,
        eval_results=results or None,
    )


def _results(facts: CardFacts) -> list[Any]:
    """Return the evaluation on the run's own data, without a known task nothing.

    It is the ``model-index`` of the card: the hub's newer ``.eval_results`` is for its registered
    benchmarks alone.
    """
    from huggingface_hub import EvalResult

    task = _TASKS.get(facts.form)
    data = _data_source(facts)
    name = facts.run.tables["data"]["name"]
    if task is None:
        return []
    return [
        EvalResult(
            task_type=task[0],
            task_name=task[1],
            dataset_type=data.get("repository", name),
            dataset_name=_data_description(facts),
            dataset_split="validation",
            metric_type=key.removeprefix("val/"),
            metric_name=_NAMES.get(key, key.removeprefix("val/")),
            metric_value=round(value, 6),
        )
        for key, value in facts.run.evaluation.items()
    ]


def _relation(facts: CardFacts) -> str | None:
    if "repository" not in facts.base:
        return None
    return "adapter" if facts.alone else "finetune"


def _licence(facts: CardFacts) -> str | None:
    """Return the licence chosen for it, else that of the published model it began from."""
    if facts.licence is not None:
        return facts.licence
    repository = facts.base.get("repository")
    if repository is None:
        return None
    presets = getattr(load("model", facts.model), "presets", None)
    for preset in ({} if presets is None else presets(0)).values():
        if str(preset.get("source", "")).endswith(f"/{repository}"):
            words = str(preset.get("licence", "")).split()
            return words[0].lower() if words else None
    return None


# Text ------------------------------------------------------------------------------------------


def _about(facts: CardFacts, folder: Path) -> str:
    what = f"A model of {facts.parameters:,} parameters{_architecture(folder)}"
    base = facts.base.get("repository")
    linked = f"[{base}](https://huggingface.co/{base})" if base else "a local pre-trained model"
    commit = f" at commit `{facts.base['commit'][:12]}`" if facts.base.get("commit") else ""
    if facts.alone:
        what = f"The adapter ({facts.adapter}) of {facts.trained:,} parameters for {linked}{commit}"
    elif facts.base and facts.adapter:
        what += f": {linked}{commit} with an adapter ({facts.adapter}) merged into it"
    elif facts.base:
        what += f": {linked}{commit}, trained further"
    else:
        what += ", trained from random weights"
    purpose = {
        "next_token": "continues text",
        "seq2seq": "writes a text for a text",
        "mlm": "fills in hidden words",
        "classify": f"sorts texts by {len(facts.labels)} labels: {', '.join(facts.labels)}",
    }.get(facts.form, "")
    purpose = "answers messages" if facts.chat else purpose
    best = "the best checkpoint" if facts.run.is_best else "a checkpoint"
    return (
        f"{what}. It {purpose}. The weights are {facts.dtype}, {best} of the run "
        f"`{facts.run.run_id}`, step {facts.run.step:,}, made with "
        f"llmforge {facts.run.metadata.get('versions', {}).get('llmforge', '')}.".replace(" .", ".")
    )


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f" (`{config['architectures'][0]}`)" if config.get("architectures") else ""


def _use(facts: CardFacts, folder: Path) -> Iterator[str]:
    prompts = facts.run.tables.get("generation", {}).get("prompts") or ()
    found = usage(
        layout=facts.layout,
        form=facts.form,
        prompt=prompts[0] if prompts else _PROMPTS["chat" if facts.chat else "text"],
        chat=facts.chat,
        new=max(1, min(_NEW_TOKENS, facts.context // 2)),
        labels=facts.labels,
        has_tokenizer=facts.has_tokenizer,
        base=(facts.base.get("repository") or facts.base.get("folder")) if facts.alone else None,
        file=min((path.name for path in folder.glob("*.safetensors")), default=""),
    )
    if found is not None:
        yield "## How to use it"
        yield "```{}\n{}```".format(*found)


def _data(facts: CardFacts) -> Iterator[str]:
    yield "## Data"
    told = facts.run.metadata.get("data", {})
    record = facts.run.record
    fingerprint = record.fingerprints.get("data") if record else None
    lines = [f"{_data_description(facts)} (component `{facts.run.tables['data']['name']}`)."]
    if fingerprint:
        lines.append(f"Fingerprint of the contents: `{fingerprint}`.")
    yield " ".join(lines)
    tokens, sizes = told.get("tokens", {}), told.get("bytes", {})
    if tokens:
        rows = [
            (split, f"{count:,}", f"{sizes[split]:,}" if split in sizes else "")
            for split, count in tokens.items()
        ]
        yield _table(("split", "tokens", "bytes"), rows)


def _training(facts: CardFacts, *, has_curves: bool) -> Iterator[str]:
    tables, told = facts.run.tables, facts.run.metadata
    optimizer, schedule = tables["optimizer"]["name"], tables["schedule"]["name"]
    rate = tables["optimizer"].get(optimizer, {}).get("lr")
    versions = ", ".join(f"{name} {v}" for name, v in told.get("versions", {}).items())
    batch = tables["train"]["batch_size"]
    share = f"{facts.trained:,} of {facts.parameters:,}"
    rows = [
        ("tokens seen", _number(told.get("tokens_seen"))),
        ("steps", f"{facts.run.step:,}"),
        ("epochs", _number(told.get("epoch"))),
        ("batch", f"{batch:,} sequences of {facts.context:,} tokens"),
        ("trained parameters", share if facts.trained < facts.parameters else ""),
        ("optimizer", optimizer if rate is None else f"{optimizer}, learning rate {rate:g}"),
        ("schedule", schedule),
        ("precision", str(told.get("precision", ""))),
        ("hardware", str(told.get("hardware", ""))),
        ("versions", versions),
        ("seed", str(tables["run"]["seed"])),
    ]
    yield "## Training"
    yield _table(("", ""), [row for row in rows if row[1]])
    yield (
        "The recipe is in `recipe.toml`, its values one by one in `training_args.json`. "
        "`forge train recipe.toml` repeats the run."
    )
    if has_curves:
        yield f"![Loss by optimizer step]({CURVES})"


def _evaluation(facts: CardFacts) -> Iterator[str]:
    values = facts.run.evaluation
    tests, benchmarks = facts.run.examples, facts.run.benchmarks
    if not values and not tests and not benchmarks:
        return
    yield "## Evaluation"
    if values:
        yield f"Measured on the validation split of the data above, at step {facts.run.step:,}."
        rows = [(_NAMES.get(key, key), f"{value:,.4f}") for key, value in values.items()]
        yield _table(("metric", "value"), rows)
    if benchmarks:
        yield "Benchmarks of the lm-evaluation-harness, each over all of its examples."
        yield _table(("task", "shots", "metric", "value"), list(table_rows(benchmarks)))
    rate = (tests or {}).get("success_rate")
    if tests and rate is not None:
        passed = sum(bool(test.get("passed")) for test in tests["tests"])
        yield (
            f"Generation tests passed at step {tests['step']:,} of the run: {passed} of "
            f"{len(tests['tests'])}. Prompts, responses and checks are in `examples.json`."
        )


def _limits(facts: CardFacts) -> Iterator[str]:
    lines = [
        f"- It reads at most {facts.context:,} tokens at once; it was trained on no more.",
        "- What it knows is what its data says. Nobody has examined what it says for truth, bias "
        "or harm.",
    ]
    if facts.run.evaluation:
        lines.insert(
            1,
            "- The figures above are of text like that of its training; they say nothing of other "
            "text or tasks.",
        )
    if "license" not in _metadata(facts).to_dict():
        lines.append(
            "- No licence is given: whoever publishes it has to choose one that its data allows."
        )
    yield "## Limits"
    yield "\n".join(lines)


def _data_source(facts: CardFacts) -> Mapping[str, Any]:
    record = facts.run.record
    found = record.resolved.get("data", {}) if record else {}
    return found if isinstance(found, Mapping) else {}


def _data_description(facts: CardFacts) -> str:
    return str(facts.run.metadata.get("data", {}).get("data") or facts.run.tables["data"]["name"])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
