"""Every hook of llmforge. The docstring of a hook is its contract.

Three families:

* **factory hooks** (``firstresult``) build one part of a run. Exactly one component answers: the
  one the recipe selects for that kind. Answering ``None`` is an error.
* **lifecycle hooks** tell what happened. Their results are ignored, they get one immutable event
  (:mod:`llmforge.events`) and never the live run. Callbacks get them in the training process,
  trackers in the courier.
* **collecting hooks** ask every component and gather the answers.

This module imports nothing of llmforge at run time, so that a plugin's own import stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from llmforge import events
    from llmforge.errors import Problem
    from llmforge.interfaces import (
        Adapter,
        Backend,
        Data,
        Deployment,
        Direction,
        Generator,
        LanguageModel,
        Metric,
        Objective,
        RunContext,
        Space,
        Storage,
        Sweeper,
        TokenData,
        Tokenizer,
        TrackedRun,
    )

PROJECT = "llmforge"
HOOK_PREFIX = "forge_"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# Factory hooks -------------------------------------------------------------------------------


@hookspec(firstresult=True)
def forge_build_data(run: RunContext) -> Data | TokenData | None:
    """Open the data of a run (kind ``data``).

    Return an object with ``splits``, ``fingerprint`` (of the contents, not of the path) and
    ``iter_text(split)``; or, for data that is tokens already, ``shards(split)``, see
    :class:`llmforge.interfaces.TokenData`; such a component says ``supports = {"tokens"}``.
    Tokenising, packing and sample order are the core's work. Anything
    worth telling the user (a fallback, a skipped file) goes through ``run.notice(text)``.
    Called before any step, in the training process; may take long, must not leave partial
    files behind.
    """


@hookspec(firstresult=True)
def forge_build_tokenizer(run: RunContext, data: Data | TokenData) -> Tokenizer | None:
    """Make the tokenizer of a new run (kind ``tokenizer``), training it on ``data`` if need be.

    The core saves the result with ``save(directory)`` and never calls this hook again for the
    same run. It must be deterministic: same data, options and seed give the same tokenizer.
    Only a component that says ``supports = {"no_text"}`` meets data without text.
    """


@hookspec(firstresult=True)
def forge_load_tokenizer(run: RunContext, directory: Path) -> Tokenizer | None:
    """Read back what this component's ``Tokenizer.save(directory)`` wrote (kind ``tokenizer``)."""


@hookspec(firstresult=True)
def forge_build_model(run: RunContext, tokenizer: Tokenizer) -> LanguageModel | None:
    """Build the freshly initialised model (kind ``model``), on the default device.

    Return a ``torch.nn.Module`` with ``loss(batch)`` as
    :class:`llmforge.interfaces.LanguageModel` defines it. The core has seeded torch's generator
    and may call this under ``torch.device("meta")`` to count parameters.
    """


@hookspec(firstresult=True)
def forge_build_adapter(run: RunContext) -> Adapter | None:
    """Build what changes the model before it is trained (kind ``adapter``).

    Called after ``forge_build_model``, wherever a model is built. The ``apply(model)`` of the
    result changes the model in place and says by ``requires_grad`` which parameters train; the
    core has seeded torch's generator before it, and may call it on the meta device. See
    :class:`llmforge.interfaces.Adapter`.
    """


@hookspec(firstresult=True)
def forge_build_objective(run: RunContext) -> Objective | None:
    """Build what decides how examples are learned from (kind ``objective``).

    Return an :class:`llmforge.interfaces.Objective`. The component says in ``supports`` which form
    of models it trains, such as ``seq2seq``; a recipe whose model has another is refused. With
    ``preferences`` in it, it learns from pairs of answers alone.
    """


@hookspec(firstresult=True)
def forge_build_optimizer(
    run: RunContext, parameters: list[tuple[str, torch.nn.Parameter]]
) -> torch.optim.Optimizer | None:
    """Build the optimizer over the named ``parameters`` (kind ``optimizer``): those that train.

    Set ``initial_lr`` of every group: the core writes ``lr = initial_lr * schedule(step)``
    before each step. All state must live in ``optimizer.state[parameter]`` as tensors or
    numbers, so that checkpoints can hold it by parameter name.
    """


@hookspec(firstresult=True)
def forge_build_schedule(run: RunContext) -> Callable[[int], float] | None:
    """Build the learning-rate schedule (kind ``schedule``).

    Return a pure function from the step about to be taken (0-based) to a factor of the peak
    learning rate. It has no state: a resumed run asks it for the step it is at.
    ``run.schedule_steps`` is the length the schedule spans.
    """


@hookspec(firstresult=True)
def forge_build_backend(run: RunContext) -> Backend | None:
    """Build the backend (kind ``backend``): the device, the precision and who holds which slice.

    Its ``prepare(model_factory, optimizer_factory, schedule)`` returns the engine the loop
    drives; see :class:`llmforge.interfaces.Backend` and :class:`llmforge.interfaces.Engine`.
    """


@hookspec(firstresult=True)
def forge_open_storage(url: str) -> Storage | None:
    """Open the place behind ``url`` (kind ``storage``).

    Return an object with the methods of :class:`llmforge.interfaces.Storage`, its file system not
    shared with another. Called once for each call under way at a time, and again after one that
    hung; in the courier and in commands. Raise StorageError when there is no login, its remedy
    saying where it was looked for.
    """


@hookspec(firstresult=True)
def forge_open_tracked_run(address: str, root: Path) -> TrackedRun | None:
    """Find a run in the service of a tracker (kind ``tracker``), to use what is kept there.

    Asked for addresses such as ``mlflow:ADDRESS``, of the component whose name comes first, which
    has its default options. ``root`` is the directory of all runs. Return an object with the
    members of :class:`llmforge.interfaces.TrackedRun`. Raise RunError when there is no such run or
    the login is refused, its remedy saying what to do.
    """


@hookspec(firstresult=True)
def forge_build_sweeper(space: Space, direction: Direction, seed: int) -> Sweeper | None:
    """Build what proposes and prunes the trials of a sweep (kind ``sweep``).

    Its answers depend on their arguments and on these alone, so that a sweep that was killed goes
    on exactly as if it had not been: see :class:`llmforge.interfaces.Sweeper`. ``direction`` is
    ``minimize`` or ``maximize``. Only a component that says ``supports = {"endless_values"}``
    meets a key whose values cannot be counted.
    """


@hookspec(firstresult=True)
def forge_build_generator(
    run: RunContext, model: LanguageModel, tokenizer: Tokenizer
) -> Generator | None:
    """Build the text generator (kind ``generation``) over a model in evaluation mode."""


@hookspec(firstresult=True)
def forge_build_metric(run: RunContext) -> Metric | None:
    """Build what measures the predictions of one evaluation (kind ``metric``).

    Each selected metric is asked, at every evaluation that measures it. Return an object with
    ``update(predictions, references)`` and ``compute()``, see
    :class:`llmforge.interfaces.Metric`. The class says ``needs = "labels"`` when it compares
    labels instead of generated answers, ``direction = "minimize"`` when less is better, and
    overrides ``measures`` when its values have other names than its own.
    """


@hookspec(firstresult=True)
def forge_open_deployment(address: str) -> Deployment | None:
    """Open the place that models are deployed to at ``address`` (kind ``deploy``).

    ``address`` begins with the component's name and a colon, and has the form that the class says
    in ``address_form``. Nothing is asked or changed before the first call of the result, see
    :class:`llmforge.interfaces.Deployment`.
    """


# Lifecycle hooks -----------------------------------------------------------------------------


@hookspec
def forge_run_start(event: events.RunStarted) -> None:
    """A run starts or resumes. Comes first, once for every start of the process."""


@hookspec
def forge_metrics(event: events.MetricsLogged) -> None:
    """Values were logged at a step: training metrics, timings or system metrics."""


@hookspec
def forge_eval_end(event: events.EvaluationEnded) -> None:
    """An evaluation over a whole split ended."""


@hookspec
def forge_histograms(event: events.HistogramsLogged) -> None:
    """Histograms of weights and gradients were taken at a step."""


@hookspec
def forge_samples(event: events.SamplesGenerated) -> None:
    """Texts were generated at a step."""


@hookspec
def forge_artifact(event: events.ArtifactWritten) -> None:
    """A file worth keeping (a plot, the recipe, a report) lies complete on disk."""


@hookspec
def forge_checkpoint_saved(event: events.CheckpointSaved) -> None:
    """A checkpoint is valid on the local disk."""


@hookspec
def forge_checkpoint_uploaded(event: events.CheckpointUploaded) -> None:
    """A checkpoint is committed and verified in storage."""


@hookspec
def forge_trial_start(event: events.TrialStarted) -> None:
    """A trial of a sweep begins."""


@hookspec
def forge_trial_end(event: events.TrialEnded) -> None:
    """A trial of a sweep ended, however it ended."""


@hookspec
def forge_run_error(event: events.RunFailed) -> None:
    """The run stopped on an error. ``forge_run_end`` follows."""


@hookspec
def forge_run_end(event: events.RunEnded) -> None:
    """This start of the run ended: completed, stopped early, interrupted or failed.

    Always comes last. Trackers flush and close here, within their time limit.
    """


# Collecting hooks ----------------------------------------------------------------------------


@hookspec
def forge_preflight(run: RunContext) -> list[Problem]:
    """Look for what would stop this component later: a missing login, file or capability.

    Called before data are downloaded or tokenised and before a checkpoint is fetched (for trackers
    in the courier), and by ``forge train --dry-run``; perhaps twice. Return every problem found;
    an empty list means ready. Must return within a few seconds even when a network is dead.
    """


@hookspec
def forge_extra_metrics(run: RunContext, step: int) -> Mapping[str, float]:
    """Return further values to log at ``step``; asked at logging steps only."""


@hookspec
def forge_checkpoint_state(run: RunContext) -> Mapping[str, Any]:
    """Return JSON-serialisable state of this component to keep in the checkpoint.

    After a resume it comes back through ``restore_state(state)`` of the component.
    """


@hookspec
def forge_stop_reason(run: RunContext, step: int) -> str | None:
    """Return why the run should stop now, or None. Asked after logging and evaluation."""
