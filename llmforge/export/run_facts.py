"""What an export says of the run beside the weights: recipe, metrics, tests, the log of training.

Nothing that differs between equal runs is in it: no times, no speeds, no paths of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.checkpoint import Checkpoint
from llmforge.checkpoint.format import RECIPE, read_metadata
from llmforge.errors import RunError
from llmforge.export.benchmark_results import Results, read_results, write_results
from llmforge.recipe import load_recipe, to_toml
from llmforge.recipe.schema import parse_interval
from llmforge.run.reporting.metrics_files import read_rows
from llmforge.rundir import RunDirectory, RunRecord
from llmforge.rundir.record import read_record

_SPEEDS = ("seconds", "tokens_per_second")
_SEPARATE = ("step", "epoch", "tokens_seen")

_PLACES = ("tracker", "storage", "deploy")
"""Tables of whoever trained, with addresses that are nobody else's business."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a checkpoint and its run.

    Attributes:
        tables: of the resolved recipe, without ``run.root``, trackers, storage and deployments.
        metadata: ``metadata.json`` of the checkpoint.
        rows: of ``metrics.jsonl`` up to the checkpoint; empty where only the checkpoint is left.
        record: ``run.json``; None where only the checkpoint is left.
        examples: responses to the generation tests, None when there were none.
        benchmarks: what the checkpoint reached on whole benchmarks, rows of ``benchmarks.json``.
        step: of the checkpoint.
        run_id: of the run.
        is_best: whether the checkpoint is the best of the run, or was when it was written where
            only the checkpoint is left.
    """

    tables: Mapping[str, Any]
    metadata: Mapping[str, Any]
    rows: list[dict[str, Any]]
    record: RunRecord | None
    examples: Mapping[str, Any] | None
    benchmarks: Results
    step: int
    run_id: str
    is_best: bool

    @property
    def evaluation(self) -> dict[str, float]:
        """The newest values measured on the validation split."""
        return dict(self.metadata.get("evaluation") or {})


def read_facts(checkpoint: Checkpoint) -> RunFacts:
    """Return what is known of ``checkpoint``, with its run's files where they are.

    Raises:
        CheckpointError: its files are damaged.
        RunError: a row of the metrics is damaged.
    """
    recipe = load_recipe(checkpoint.path / RECIPE)
    tables = {
        name: {key: item for key, item in table.items() if (name, key) != ("run", "root")}
        for name, table in recipe.tables.items()
        if name not in _PLACES
    }
    metadata = read_metadata(checkpoint.path)
    inside = checkpoint.path.parent.name == "checkpoints"
    directory = RunDirectory(checkpoint.path.parents[1]) if inside else None
    rows: list[dict[str, Any]] = []
    if directory is not None:
        try:
            rows = [row for row in read_rows(directory.metrics) if row["step"] <= checkpoint.step]
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{directory.metrics} has a damaged row: {error}",
                remedy="correct that line or remove it",
            ) from error
    known = directory is not None and directory.record.is_file()
    record = read_record(directory) if known and directory is not None else None
    return RunFacts(
        tables=tables,
        metadata=metadata,
        rows=rows,
        record=record,
        examples=None if directory is None else _examples(directory.examples),
        benchmarks=[]
        if directory is None
        else read_results(directory.benchmarks, checkpoint=checkpoint.path.name),
        step=checkpoint.step,
        run_id=metadata.get("run_id") or (directory.id if directory else checkpoint.path.name),
        is_best=_is_best(checkpoint, record),
    )


def write_facts(folder: Path, facts: RunFacts) -> None:
    """Write the files that tell of the run into ``folder``."""
    (folder / "recipe.toml").write_text(to_toml(facts.tables), encoding="utf-8")
    _write(folder / "training_args.json", flattened(facts.tables))
    _write(folder / "metrics.json", metrics(facts))
    _write(folder / "trainer_state.json", trainer_state(facts))
    write_results(folder, facts.benchmarks)
    if facts.examples is not None:
        _write(folder / "examples.json", facts.examples)


def metrics(facts: RunFacts) -> dict[str, Any]:
    """Return what was measured at the checkpoint, and the best evaluation so far."""
    told = facts.metadata
    return {
        "step": facts.step,
        "epoch": told.get("epoch"),
        "tokens_seen": told.get("tokens_seen"),
        "train/loss": told.get("train_loss"),
        **facts.evaluation,
        "best": told.get("best"),
    }


def trainer_state(facts: RunFacts) -> dict[str, Any]:
    """Return the log of training in the form of the ``Trainer`` of ``transformers``."""
    train, evaluation = facts.tables["train"], facts.tables.get("eval", {})
    best = facts.metadata.get("best") or {}
    saved = facts.tables.get("checkpoint", {}).get("every")
    return {
        "best_global_step": best.get("step"),
        "best_metric": best.get("value"),
        "best_model_checkpoint": None,
        "epoch": facts.metadata.get("epoch"),
        "eval_steps": _steps(evaluation.get("every")),
        "global_step": facts.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [entry for row in facts.rows for entry in _log_entries(row)],
        "logging_steps": train.get("log_every"),
        "max_steps": facts.record.total_steps if facts.record else train.get("max_steps"),
        "num_input_tokens_seen": facts.metadata.get("tokens_seen"),
        "num_train_epochs": train.get("epochs"),
        "save_steps": _steps(saved),
        "train_batch_size": train.get("batch_size"),
        "trial_name": None,
        "trial_params": None,
    }


def flattened(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, by dotted keys."""
    found: dict[str, Any] = {}
    for name, value in tables.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _is_best(checkpoint: Checkpoint, record: RunRecord | None) -> bool:
    best = record.metrics.get("best") if record else None
    return checkpoint.is_best if best is None else best["step"] == checkpoint.step


def _log_entries(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row of metrics as the entries that the ``Trainer`` has of it."""
    place = {"epoch": row.get("epoch"), "step": row["step"]}
    evaluated = {
        f"eval_{name.removeprefix('val/').replace('/', '_')}": value
        for name, value in row.items()
        if name.startswith("val/")
    }
    trained = {
        {"train/loss": "loss", "lr": "learning_rate"}.get(name, name.replace("/", "_")): value
        for name, value in row.items()
        if name not in _SEPARATE and not name.startswith("val/")
    }
    return [{**values, **place} for values in (trained, evaluated) if values]


def _steps(every: int | str | None) -> int | None:
    found = parse_interval(every)
    return found if isinstance(found, int) else None


def _examples(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    tests = [
        {key: value for key, value in test.items() if key not in _SPEEDS}
        for test in content.get("tests", ())
    ]
    return {**content, "tests": tests}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
