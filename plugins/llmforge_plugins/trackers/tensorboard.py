"""Writes scalars, texts and hyper-parameters as TensorBoard event files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import llmforge
from llmforge import Component, events, hookimpl

if TYPE_CHECKING:
    from llmforge_plugins.trackers._event_files import EventFiles


class TensorBoard(Component, kind="tracker"):
    """TensorBoard event files under ``<run>/trackers/tensorboard``."""

    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)
    viewer: ClassVar[str] = "tensorboard --logdir {directory}"

    class Options(llmforge.Options):
        """No options yet; TensorBoard needs none."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._files: EventFiles | None = None

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Open a new event file; TensorBoard reads all files of the folder as one run."""
        from llmforge_plugins.trackers._event_files import EventFiles

        self._close()
        self._files = EventFiles(Path(event.directory) / "trackers" / self.name)
        self._files.hyperparameters(event.config)

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write scalars."""
        self._open().scalars(event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write the evaluation's scalars."""
        self._open().scalars(event.values, step=event.step, time=event.time)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Write the samples as text, a block per prompt."""
        for index, sample in enumerate(event.samples):
            text = f"**{sample['prompt']}**{sample['text']}"
            self._open().text(f"samples/{index}", text, step=event.step)

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Close the file."""
        self._open().text("run/end", f"{event.state}: {event.reason}", step=event.step)
        self._close()

    def _open(self) -> EventFiles:
        if self._files is None:
            raise RuntimeError("forge_run_start has not been called")
        return self._files

    def _close(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None
