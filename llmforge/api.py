"""The Python interface: train, generate, and look at runs from a script or a notebook."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.distributed import Place, Team, find_place, join
from llmforge.errors import Interrupted, RecipeError
from llmforge.insight.metrics import metric_rows
from llmforge.recipe import Override, Recipe, load_recipe
from llmforge.run.plan import Plan, make_plan
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.signals import StopNow, StopSignals
from llmforge.run.trace_range import parse_range
from llmforge.run_root import run_root
from llmforge.rundir import (
    Completion,
    RunDirectory,
    RunLock,
    RunRecord,
    find_run,
    read_completion,
    read_record,
)

if TYPE_CHECKING:
    from llmforge.checkpoint import Checkpoint
    from llmforge.generation import LoadedModel
    from llmforge.interfaces import Completion as GeneratedText
    from llmforge.interfaces import LanguageModel, Tokenizer
    from llmforge.run.artifacts import Finisher
    from llmforge.run.plan import TrialLink
    from llmforge.run.runner import RunOutcome
    from llmforge.run.setup.resume_from_storage import BroughtBack

Overrides = Sequence[Override | str] | Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointHandle:
    """A checkpoint of a run, read when asked."""

    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.checkpoint.path

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.checkpoint.step

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of its ``metadata.json``."""
        from llmforge.checkpoint import read_metadata

        return read_metadata(self.path)

    def load(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        weights: str | Path | None = None,
    ) -> LoadedModel:
        """Load model and tokenizer, ready to generate.

        Args:
            device: where to compute.
            dtype: number format of the weights.
            weights: a ``.safetensors`` or ``.pt`` file whose weights replace the checkpoint's; no
                code in it is run.

        Raises:
            CheckpointError: the checkpoint or the weights cannot be read, or do not fit.
        """
        from llmforge.generation import load_checkpoint

        replacing = None if weights is None else Path(weights)
        return load_checkpoint(self.checkpoint, device=device, dtype=dtype, weights=replacing)

    def model(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        weights: str | Path | None = None,
    ) -> LanguageModel:
        """Load the model in evaluation mode; arguments and errors as :meth:`load`."""
        return self.load(device=device, dtype=dtype, weights=weights).model

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer it was trained with."""
        return self.load(device="cpu").tokenizer


@dataclass(frozen=True)
class RunHandle:
    """A run on disk."""

    directory: RunDirectory

    @property
    def id(self) -> str:
        """The run id."""
        return self.directory.id

    @property
    def record(self) -> RunRecord:
        """Content of ``run.json``; raises ``RunError`` when it cannot be read."""
        return read_record(self.directory)

    @property
    def completion(self) -> Completion | None:
        """The completion record, or None when the run is not done."""
        return read_completion(self.directory.root, self.id)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``; ``pandas.DataFrame`` takes them as they are.

        Raises:
            RunError: a row is damaged.
        """
        return metric_rows(self.directory.metrics)

    def samples(self) -> list[dict[str, Any]]:
        """Return the rows of ``samples.jsonl``; raises ``RunError`` when one is damaged."""
        return metric_rows(self.directory.samples)

    def checkpoint(self, which: str | int = "best") -> CheckpointHandle:
        """Return the checkpoint ``best``, ``last`` or of a step.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        from llmforge.checkpoint import resolve

        return CheckpointHandle(resolve(self.directory.checkpoints, which))

    def checkpoints(self) -> list[CheckpointHandle]:
        """Return every checkpoint with a readable manifest, in order of steps."""
        from llmforge.checkpoint import list_checkpoints

        return [CheckpointHandle(item) for item in list_checkpoints(self.directory.checkpoints)]


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Attributes:
        run: the run on disk.
        state: ``completed``, ``early-stopped`` or ``interrupted`` (``stop_at`` reached).
        reason: why it ended.
        metrics: final metrics by name, as in ``metrics.json``.
        samples: texts generated at the end.
        skipped: True when the run was complete before and nothing was trained.
    """

    run: RunHandle
    state: str
    reason: str
    metrics: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    skipped: bool
    _outcome: RunOutcome | None = None

    @property
    def model(self) -> LanguageModel:
        """The model after the last step, in evaluation mode; loaded when it was not trained now."""
        if self._outcome is None:
            return self.run.checkpoint("last").model()
        model = self._outcome.engine.model
        model.eval()
        return model


def train(
    recipe: str | Path | Recipe,
    *,
    profile: str | None = None,
    overrides: Overrides = (),
    resume: str | None = None,
    allow_data_change: bool = False,
    reporter: Reporter | None = None,
    signals: StopSignals | None = None,
    trial: TrialLink | None = None,
    team: Team | None = None,
    trace_steps: str | None = None,
) -> TrainResult:
    """Train a recipe, or resume it, or find that it is done.

    Args:
        recipe: a file, the name of a shipped recipe, or a loaded recipe.
        profile: the profile to lay over it.
        overrides: ``{"train.max_steps": 20}``, or ``["train.max_steps=20"]``.
        resume: a checkpoint of the run to go back to, for example ``RUN@100``.
        allow_data_change: continue although data or tokenizer changed since the run was started.
        reporter: shows what happens; the log only when absent.
        signals: handlers that were set up already; they are set up here when absent.
        trial: ties the run to a sweep.
        team: the processes that train together, joined already; found in the environment
            (torchrun's or Slurm's variables) when absent.
        trace_steps: steps to trace as ``"FIRST:LAST"``, into ``traces`` of the run.

    Raises:
        RecipeError: the recipe has problems; all of them are in the error.
        RunLockedError: another process trains this run.
        Interrupted: a signal stopped it; what was trained is saved.
        ForgeError: anything else a user can mend.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, profile=profile, overrides=overrides)
    plan = make_plan(recipe, trial=trial, trace=parse_range(trace_steps))
    done = plan.completion() if resume is None else None
    if plan.trace is not None:
        plan.trace.require_unfinished(done, run_id=plan.run_id)
    if done is not None:
        return _skipped(plan, done)
    with contextlib.ExitStack() as stack:
        own_signals = signals is None
        if signals is None:
            stack.enter_context(_stops_told())
            signals = stack.enter_context(StopSignals())
        if team is None:
            team = join(find_place() if trial is None else Place())  # a trial has one process
            stack.enter_context(team.working(undisturbed=signals.deferred))
        if own_signals:
            stack.enter_context(_stops_told())  # within, so that the other ranks hear of it
        return _started(
            plan,
            resume,
            allow_data_change,
            reporter=reporter or Reporter(),
            signals=signals,
            team=team,
        )


@contextlib.contextmanager
def _stops_told() -> Iterator[None]:
    try:
        yield
    except StopNow as stop:
        raise Interrupted(f"stopped by {stop} before anything was started") from None


def generate(
    address: str,
    prompts: str | Sequence[str],
    *,
    root: str | Path | None = None,
    samples: int = 1,
    seed: int = 0,
    chat: bool | None = None,
    system: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    weights: str | Path | None = None,
    **options: Any,
) -> list[GeneratedText]:
    """Continue or answer prompts with a run's best checkpoint, or the one ``address`` names.

    Args:
        address: ``RUN``, ``RUN@best``, ``RUN@last``, ``RUN@STEP`` or a path.
        prompts: one text or several.
        root: directory of all runs; ``FORGE_RUN_ROOT`` or ``runs`` when absent.
        samples: continuations per prompt.
        seed: equal seeds give equal texts.
        chat: whether prompts are messages, which the run's chat template lays out; where it has
            one when None.
        system: a system message before each.
        device: where to compute.
        dtype: number format of the weights.
        weights: a ``.safetensors`` or ``.pt`` file whose weights replace the checkpoint's; no
            code in it is run.
        options: options of the generator, for example ``temperature=0.5``.

    Raises:
        ForgeError: no such checkpoint, or an option is not valid.
    """
    from llmforge.generation import generate_texts, open_checkpoint

    loaded = open_checkpoint(
        address,
        root=run_root(root),
        device=device,
        dtype=dtype,
        weights=None if weights is None else Path(weights),
    )
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    return generate_texts(
        loaded, texts, samples=samples, seed=seed, chat=chat, system=system, **options
    )


def load_run(run: str, *, root: str | Path | None = None) -> RunHandle:
    """Return the run whose id is ``run`` or begins with it.

    Raises:
        RunError: none matches.
        UsageError: several do.
    """
    return RunHandle(find_run(run_root(root), run))


def _skipped(plan: Plan, done: Completion) -> TrainResult:
    run = RunHandle(plan.directory)
    samples = [row for row in run.samples() if row["step"] == done.steps]
    metrics = _final_metrics(plan.directory, done)
    return TrainResult(run, done.state, done.reason, metrics, samples, skipped=True)


def _final_metrics(directory: RunDirectory, done: Completion) -> dict[str, Any]:
    """Return the run's ``metrics.json``, or what the completion knows when that is gone."""
    try:
        metrics: dict[str, Any] = json.loads(directory.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        best = {"metric": "val/loss", "value": done.best_loss, "step": done.best_step}
        known = None if done.best_loss is None else best
        return {"step": done.steps, "val/loss": done.final_loss, "best": known}
    return metrics


def _started(
    plan: Plan,
    resume: str | None,
    allow_data_change: bool,
    *,
    reporter: Reporter,
    signals: StopSignals,
    team: Team,
) -> TrainResult:
    found: BroughtBack | None = None
    if team.place.is_leader:
        with RunLock(plan.root, plan.run_id):
            # A run that another process trains is reported at once, before torch is imported.
            found = _elsewhere(plan, reporter, team.place) if resume is None else None
    team.assemble(timeout=plan.recipe.backend.timeout_seconds, device=plan.recipe.train.device)
    done = plan.completion() if resume is None and team.place.is_leader else None
    done = team.broadcast(done, patient=True)
    if done is not None:
        return _skipped(plan, done)
    checkpoint = None if resume is None else _located(plan, resume, reporter, team.place)
    if not team.place.is_leader:
        return _followed(plan, checkpoint, allow_data_change, signals=signals, team=team)
    # Imported here: this is where torch comes in, and a skipped run does without it. A signal that
    # raised within the import of a compiled module would leave half of it behind.
    with signals.deferred():
        from llmforge.export.at_end import export_at_end
        from llmforge.run.runner import start_run
    signals.check()
    finishers: Sequence[Finisher] = (_curves(),)
    outcome = start_run(
        plan,
        signals=signals,
        reporter=reporter,
        resume=checkpoint,
        allow_data_change=allow_data_change,
        finishers=finishers,
        exporter=export_at_end,
        found=found,
        team=team,
    )
    return TrainResult(
        RunHandle(outcome.directory),
        outcome.state,
        outcome.reason,
        outcome.metrics,
        outcome.samples,
        skipped=False,
        # On several ranks the engine may hold parts of the weights only: the checkpoint has all.
        _outcome=outcome if team.place.world_size == 1 else None,
    )


def _followed(
    plan: Plan,
    checkpoint: Path | None,
    allow_data_change: bool,
    *,
    signals: StopSignals,
    team: Team,
) -> TrainResult:
    """Train as one of several ranks, whose leader does everything else."""
    with signals.deferred():
        from llmforge.run.follower_rank import follow_run
    signals.check()
    ended = follow_run(
        plan, team=team, signals=signals, resume=checkpoint, allow_data_change=allow_data_change
    )
    return TrainResult(
        RunHandle(plan.directory),
        ended.state,
        ended.reason,
        ended.metrics,
        ended.samples,
        skipped=False,
    )


def _located(plan: Plan, resume: str, reporter: Reporter, place: Place) -> Path:
    from llmforge.generation import locate
    from llmforge.run.setup.preflight import require_ready_here

    require_ready_here(plan, place=place)  # it may have to be fetched
    return locate(resume, root=plan.root, say=reporter.say).path


def _elsewhere(plan: Plan, reporter: Reporter, place: Place) -> BroughtBack | None:
    """Fetch what storage has and this machine has not, None when the recipe has no storage.

    Raises:
        RecipeError: a package or credentials that the storage needs are missing, or this machine
            cannot train the run.
    """
    if plan.recipe.storage.url is None:
        return None
    from llmforge.remote import storage_problems

    run = plan.context(resolved={}, notice=reporter.notice)
    if problems := storage_problems(plan.recipe, run):
        raise RecipeError(problems, source=str(plan.recipe.source))
    if not plan.recipe.storage.resume:
        return None
    from llmforge.run.setup.preflight import require_ready_here
    from llmforge.run.setup.resume_from_storage import bring_back

    return bring_back(
        plan,
        say=reporter.say,
        require_ready=lambda: require_ready_here(plan, place=place),
    )


def _curves() -> Callable[[RunDirectory], Sequence[Path]]:
    from llmforge.insight.plots import write_curves

    return write_curves
