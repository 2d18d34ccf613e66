"""Running tasks of the lm-evaluation-harness and keeping what they measured."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmforge.checkpoint import Checkpoint
from llmforge.courier.journal import JournalWriter
from llmforge.errors import RunLockedError, UsageError
from llmforge.events import MetricsLogged
from llmforge.generation import LoadedModel
from llmforge.installed import install_command
from llmforge.rundir import RunDirectory
from llmforge.rundir.lock import RunLock
from llmforge.rundir.results import keep_newest

_NOT_METRICS = ("alias", "name", "sample_len", "samples")
_NEAR = 3


def run_benchmarks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
    system: str | None = None,
) -> list[dict[str, Any]]:
    """Return what each task measured.

    Args:
        loaded: the model.
        tasks: names that the harness knows, or paths of YAML files of tasks.
        limit: examples of each task; all when None.
        shots: solved examples before each question; as the task says when None.
        chat: lay questions out as messages by the run's chat template.
        system: a system message before each.

    Returns:
        For each task ``task``, ``shots``, ``examples``, ``limit`` and ``metrics`` by name; those
        of a group come after its parts.

    Raises:
        UsageError: the harness is not installed or has no such task, or a task cannot be run.
    """
    require_harness()
    from yaml import YAMLError

    from llmforge.harness.language_model import HarnessModel

    model = HarnessModel(loaded)
    try:
        with _quiet() as harness:
            manager = _manager(tasks)
            found = harness.simple_evaluate(
                model=model,
                tasks=_names(tasks, manager),
                num_fewshot=shots,
                limit=limit,
                apply_chat_template=chat,
                system_instruction=system,
                task_manager=manager,
                log_samples=False,
                bootstrap_iters=0,
            )
    except (OSError, ValueError, LookupError, TypeError, AssertionError, YAMLError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(
            f"the harness cannot run {', '.join(tasks)}: {first}",
            remedy="data of its own tasks comes from the hub; a task file may name local files",
        ) from error
    return [{**row, "limit": limit} for row in _rows(found)]


def require_tasks(tasks: Sequence[str]) -> None:
    """Refuse tasks that there are not, before a model is loaded.

    Raises:
        UsageError: no task is named, or the harness has none of that name, or there is no file.
    """
    if not tasks:
        raise UsageError("--harness names no task", remedy="for example --harness arc_easy")
    _names(tasks, _manager(tasks))


def require_harness() -> None:
    """Say what is missing.

    Raises:
        UsageError: the harness is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("benchmarks need the package lm-eval", remedy=install_command("lm_eval"))


@contextmanager
def _quiet() -> Iterator[Any]:
    """Yield the harness's evaluator, which says nothing that only its authors would miss."""
    from datasets.utils.logging import disable_progress_bar
    from lm_eval import evaluator

    disable_progress_bar()
    log = logging.getLogger("lm_eval")
    level, describe = log.level, evaluator.get_git_commit_hash
    log.setLevel(logging.ERROR)
    evaluator.get_git_commit_hash = lambda: None  # else Git complains outside a repository
    try:
        yield evaluator
    finally:
        log.setLevel(level)
        evaluator.get_git_commit_hash = describe


def record_benchmarks(
    directory: RunDirectory, checkpoint: Checkpoint, results: Sequence[Mapping[str, Any]]
) -> Path:
    """Keep results in the run's ``benchmarks.json``, the newest of each checkpoint, task and size.

    Raises:
        RunError: the file is damaged or cannot be written.
    """
    path = directory.benchmarks
    rows = [{"checkpoint": checkpoint.path.name, "step": checkpoint.step, **r} for r in results]
    keep_newest(path, rows, by=("checkpoint", "task", "shots", "examples"))
    return path


def log_benchmarks(
    directory: RunDirectory, checkpoint: Checkpoint, results: Sequence[Mapping[str, Any]]
) -> bool:
    """Give the trackers the results at the checkpoint's step; False while the run is trained."""
    values = {
        f"benchmark/{row['task']}/{name}": value
        for row in results
        for name, value in row["metrics"].items()
    }
    try:
        with RunLock(directory.root, directory.id):
            journal = JournalWriter(directory.journal)
            journal.append(MetricsLogged(step=checkpoint.step, values=values, time=time.time()))
            journal.close()
    except RunLockedError:
        return False
    return True


@lru_cache(maxsize=2)
def _task_manager(*, with_its_own: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_its_own)


def _manager(tasks: Sequence[str]) -> Any:
    """Return the harness's index; that of its own tasks is thousands of files, read where needed.

    Raises:
        UsageError: there is no such file of tasks.
    """
    for task in tasks:
        if _is_file(task) and not Path(task).is_file():
            raise UsageError(f"there is no task file {task}")
    return _task_manager(with_its_own=not all(_is_file(task) for task in tasks))


def _names(tasks: Sequence[str], manager: Any) -> list[str]:
    return [_name(task, manager.all_tasks) for task in tasks]


def _name(task: str, known: Sequence[str]) -> str:
    """Return a task as the harness looks it up.

    Raises:
        UsageError: it knows no such task.
    """
    import fnmatch
    from difflib import get_close_matches

    if _is_file(task):
        return str(Path(task).resolve())
    if task in known or fnmatch.filter(known, task):
        return task
    near = get_close_matches(task, known, n=_NEAR)
    raise UsageError(
        f"the harness has no task '{task}'",
        remedy=f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks lists them",
    )


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _rows(found: Any) -> list[dict[str, Any]]:
    """Return the results of tasks and groups, metrics by their plain names."""
    results = {**found["results"], **found.get("groups", {})}
    sizes = found.get("n-samples", {})
    return [
        {
            "task": task,
            "shots": found.get("n-shot", {}).get(task),
            "examples": sizes.get(task, {}).get("effective"),
            "metrics": {
                name.removesuffix(",none"): float(value)
                for name, value in sorted(values.items())
                if isinstance(value, int | float) and name.partition(",")[0] not in _NOT_METRICS
            },
        }
        for task, values in results.items()
    ]
