"""Results of benchmarks in an exported folder: for the model card, and as the hub collects them.

The hub's form is ``.eval_results/*.yaml``, for datasets that are registered there as benchmarks
(https://huggingface.co/docs/hub/eval-results). Whatever else was measured is in the card only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".eval_results"
"""The hidden folder that the hub looks into."""

Results = Sequence[Mapping[str, Any]]
"""Rows of ``benchmarks.json``."""


@dataclass(frozen=True, kw_only=True)
class _Registered:
    """A benchmark of the hub: its dataset, its task there, and which metric is its score."""

    dataset: str
    task: str
    metric: str


_REGISTERED = {
    "gsm8k": _Registered(dataset="openai/gsm8k", task="gsm8k", metric="exact_match,strict-match"),
    "mmlu_pro": _Registered(
        dataset="TIGER-Lab/MMLU-Pro", task="mmlu_pro", metric="exact_match,custom-extract"
    ),
}
"""Tasks of the lm-evaluation-harness that are benchmarks of the hub, where scores are percent."""


def read_results(path: Path, *, checkpoint: str) -> Results:
    """Return what was measured of a checkpoint over whole benchmarks; nothing of a damaged file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [
            row
            for row in rows
            if row["checkpoint"] == checkpoint and row.get("limit", 0) is None and row["metrics"]
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def write_results(folder: Path, results: Results) -> None:
    """Write the scores of the hub's benchmarks into ``folder``, a file for each."""
    import yaml

    for row in results:
        known = _REGISTERED.get(row["task"])
        if known is None or known.metric not in row["metrics"]:
            continue
        entry = {
            "dataset": {"id": known.dataset, "task_id": known.task},
            "value": round(100 * row["metrics"][known.metric], 4),
            "notes": f"{_shots(row)}lm-evaluation-harness",
        }
        (folder / FOLDER).mkdir(exist_ok=True)
        name = row["task"] if row["shots"] is None else f"{row['task']}_{row['shots']}_shot"
        text = yaml.safe_dump([entry], sort_keys=False)
        (folder / FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


def table_rows(results: Results) -> Iterator[tuple[str, str, str, str]]:
    """Yield task, shots, metric and value of each result, for people."""
    for row in results:
        for metric, value in row["metrics"].items():
            shots = "" if row["shots"] is None else str(row["shots"])
            yield row["task"], shots, metric, f"{value:.4f}"


def _shots(row: Mapping[str, Any]) -> str:
    return "" if row["shots"] is None else f"{row['shots']}-shot, "
