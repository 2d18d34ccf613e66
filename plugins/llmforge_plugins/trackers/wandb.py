"""Logs a run to Weights & Biases: metrics, tables of samples, histograms, plots, artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import llmforge
from llmforge import SAFE, Component, Problem, RunContext, events, hookimpl
from llmforge.interfaces import TrackedRun

if TYPE_CHECKING:
    from llmforge_plugins.trackers._wandb_run import WandbRun


class Wandb(Component, kind="tracker"):
    """A Weights & Biases run; its local files lie under ``<run>/trackers/wandb``.

    The API key is taken from ``WANDB_API_KEY`` in the environment or ``.env``.
    """

    requires: ClassVar[tuple[str, ...]] = ("wandb",)
    credentials: ClassVar[tuple[str, ...]] = ("WANDB_API_KEY",)

    class Options(llmforge.Options):
        """Where the run goes, how it is filed, and what is logged besides metrics."""

        entity: Annotated[str | None, SAFE] = None
        """User or team that owns the project; the key's default when absent."""
        project: Annotated[str | None, SAFE] = None
        """Project; ``run.project`` when absent."""
        mode: Annotated[Literal["online", "offline", "disabled"], SAFE] = "online"
        """``offline`` writes files for ``wandb sync``; ``disabled`` does nothing."""
        group: Annotated[str | None, SAFE] = None
        """Group of runs this one belongs to; the sweep's id for trials when absent."""
        job_type: Annotated[str | None, SAFE] = None
        """Type of the run within its group."""
        log_checkpoints: Annotated[Literal["best", "last", "all", "none"], SAFE] = "none"
        """Checkpoints to upload as artifacts; ``last`` is the newest when the run ends."""
        recipe: Annotated[bool, SAFE] = True
        """Upload the resolved recipe as an artifact."""
        samples: Annotated[bool, SAFE] = True
        """Log generated texts as a table over steps and prompts."""
        plots: Annotated[bool, SAFE] = True
        """Log the run's plots as images."""
        histograms: Annotated[bool, SAFE] = True
        """Log histograms of weights and gradients, when the run takes them."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._run: WandbRun | None = None
        self._newest: events.CheckpointSaved | None = None

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for a key and, within seconds, whether it is refused."""
        from llmforge_plugins.trackers._wandb_service import login_problems

        return login_problems(self.name, notice=run.notice) if self._is("online") else []

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Begin or resume the W&B run, whose id is written down before it is used."""
        if self._is("disabled"):
            return
        from llmforge_plugins.trackers._wandb_run import WandbRun

        if self._run is None:
            directory = Path(event.directory) / "trackers" / self.name
            self._run = WandbRun(directory, self.options)
        self.link, self.address = self._run.start(event), self._run.address

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Log values at their step."""
        if self._run is not None:
            self._run.log(event, event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Log the evaluation's values at their step."""
        if self._run is not None:
            self._run.log(event, event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_histograms(self, event: events.HistogramsLogged) -> None:
        """Log histograms at their step."""
        if self._run is not None and self.options.histograms:
            self._run.log_histograms(event)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Log the table of all samples so far."""
        if self._run is not None and self.options.samples:
            self._run.log_samples(event)

    @hookimpl
    def forge_artifact(self, event: events.ArtifactWritten) -> None:
        """Log a plot as an image, the recipe as an artifact."""
        if self._run is None:
            return
        if event.type == "plot" and self.options.plots:
            self._run.log_plot(event)
        elif event.type == "recipe" and self.options.recipe:
            self._run.log_artifact(event.path, kind="recipe", aliases=[])

    @hookimpl
    def forge_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        """Upload the checkpoint when it is one that is asked for."""
        self._newest = event
        wanted = self._checkpoints("all") or (self._checkpoints("best") and event.is_best)
        if wanted:
            self._upload(event, ["last"] if self._checkpoints("all") else [])

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Upload the last checkpoint if asked for, and finish the W&B run in bounded time."""
        if self._newest is not None and self._checkpoints("last"):
            self._upload(self._newest, ["last"])
            self._newest = None
        if self._run is not None:
            self._run.finish(event)

    @hookimpl
    def forge_open_tracked_run(self, address: str) -> TrackedRun:
        """Find the W&B run at ``address``: ``ENTITY/PROJECT/ID``."""
        from llmforge_plugins.trackers._wandb_kept import open_kept_run

        return open_kept_run(address, places=self._run is None)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether every checkpoint is uploaded, while the run continues."""
        return self._checkpoints("all") and self._is("online")

    def has_arrived(self, event: events.Event) -> bool:
        """Return whether W&B, or the offline file, has ``event``."""
        return self._run is None or self._run.has_arrived(event)

    def _upload(self, checkpoint: events.CheckpointSaved, aliases: list[str]) -> None:
        best = ["best"] if checkpoint.is_best else []
        if self._run is not None:
            names = [*aliases, *best, f"step-{checkpoint.step}"]
            facts = {"step": checkpoint.step, "is_best": checkpoint.is_best}
            self._run.log_artifact(checkpoint.path, kind="checkpoint", aliases=names, facts=facts)

    def _checkpoints(self, which: str) -> bool:
        return bool(self.options.log_checkpoints == which)

    def _is(self, mode: str) -> bool:
        return bool(self.options.mode == mode)
