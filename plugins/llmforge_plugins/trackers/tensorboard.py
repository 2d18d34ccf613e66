"""Writes scalars, histograms, texts, images and hyper-parameters as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import llmforge
from llmforge import SAFE, Component, events, hookimpl

if TYPE_CHECKING:
    from llmforge_plugins.trackers._event_files import EventFiles


class TensorBoard(Component, kind="tracker"):
    """TensorBoard event files under ``<run>/trackers/tensorboard``."""

    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)
    viewer: ClassVar[str] = "tensorboard --logdir {directory}"

    class Options(llmforge.Options):
        """What is written besides scalars."""

        hparams: Annotated[bool, SAFE] = True
        """The recipe and the final metrics for the page HPARAMS, which compares runs."""
        samples: Annotated[bool, SAFE] = True
        """Generated texts for the page TEXT."""
        plots: Annotated[bool, SAFE] = True
        """The run's plots for the page IMAGES."""
        histograms: Annotated[bool, SAFE] = True
        """Weights and gradients for the page HISTOGRAMS, when the run logs them."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._files: EventFiles | None = None
        self._run = Path()
        self._step = 0

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Open a new event file; TensorBoard reads all files of the folder as one run."""
        from llmforge_plugins.trackers._event_files import EventFiles

        self._close()
        self._run = Path(event.directory)
        self._step = event.resumed_from or 0
        self._files = EventFiles(self._run / "trackers" / self.name)
        if self.options.hparams:
            self._files.hyperparameters(event.config)

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write scalars."""
        self._open(event.step).scalars(event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write the evaluation's scalars."""
        self._open(event.step).scalars(event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_histograms(self, event: events.HistogramsLogged) -> None:
        """Write histograms."""
        if self.options.histograms:
            self._open(event.step).histograms(event.values, step=event.step)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Write the samples as text, a block per prompt or test and its numbers below."""
        if not self.options.samples:
            return
        for index, sample in enumerate(event.samples):
            name = f"tests/{sample['test']}" if "test" in sample else f"samples/{index}"
            self._open(event.step).text(name, _markdown(sample), step=event.step)

    @hookimpl
    def forge_artifact(self, event: events.ArtifactWritten) -> None:
        """Write a plot as an image at the step the run is at; it may be gone by now."""
        path = self._run / event.path
        if event.type != "plot" or not self.options.plots or not path.is_file():
            return
        step = self._step if event.step is None else event.step
        self._open(step).image(f"plots/{event.name}", path, step=step)

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Write how it ended and the final metrics, and close the file."""
        files = self._open(event.step)
        files.text("run/end", f"{event.state}: {event.reason}", step=event.step)
        if self.options.hparams:
            files.final(event.metrics, step=event.step, succeeded=event.state != "failed")
        self._close()

    def _open(self, step: int) -> EventFiles:
        if self._files is None:
            raise RuntimeError("forge_run_start has not been called")
        self._step = max(self._step, step)
        return self._files

    def _close(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None


def _markdown(sample: Mapping[str, Any]) -> str:
    """Return a sample as Markdown: prompt and text, then what else is known of it."""
    numbers = {key: value for key, value in sample.items() if key not in ("step", "prompt", "text")}
    listed = ", ".join(f"{key} {value}" for key, value in numbers.items())
    text = f"**{sample['prompt']}**{sample['text']}"
    return f"{text}\n\n{listed}" if listed else text
