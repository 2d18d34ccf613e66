"""A tracker and a callback that write down every hook they see, and with what.

``HOOK_RECORD`` names the file; ``HOOK_PROBLEM``, ``HOOK_STOP_AT`` and ``HOOK_FAIL_AT`` make them
report a problem, stop the run or fail.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from llmforge import Component, Problem, RunContext, events, hookimpl

Wrapper = Generator[None, Any, Any]


def note(who: str, hook: str, **facts: Any) -> None:
    line = json.dumps({"who": who, "hook": hook, "process": os.getpid(), **facts})
    with Path(os.environ["HOOK_RECORD"]).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Lifecycle:
    """Every lifecycle hook."""

    kind: str

    def told(self, event: events.Event) -> None:
        note(self.kind, event.hook, event=json.loads(events.encode(event)))

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        self.told(event)

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        self.told(event)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        self.told(event)

    @hookimpl
    def forge_histograms(self, event: events.HistogramsLogged) -> None:
        self.told(event)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        self.told(event)

    @hookimpl
    def forge_artifact(self, event: events.ArtifactWritten) -> None:
        self.told(event)

    @hookimpl
    def forge_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        self.told(event)

    @hookimpl
    def forge_checkpoint_uploaded(self, event: events.CheckpointUploaded) -> None:
        self.told(event)

    @hookimpl
    def forge_run_error(self, event: events.RunFailed) -> None:
        self.told(event)

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        self.told(event)

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        note(self.kind, "forge_preflight", run=run.id)
        return [Problem(message=f"the {self.kind} objects")] if "HOOK_PROBLEM" in os.environ else []


class Recorder(Lifecycle, Component, kind="tracker"):
    """Writes down what a tracker is told."""


class Observer(Lifecycle, Component, kind="callback"):
    """Writes down what a callback is told and asked, and what the factories return."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.asked = 0

    @hookimpl
    def forge_extra_metrics(self, run: RunContext, step: int) -> Mapping[str, float]:
        note("callback", "forge_extra_metrics", run=run.id, step=step)
        if step >= int(os.environ.get("HOOK_FAIL_AT", "1000")):
            raise RuntimeError("the observer fell over")
        self.asked += 1
        return {"observer/asked": float(self.asked)}

    @hookimpl
    def forge_checkpoint_state(self, run: RunContext) -> Mapping[str, Any]:
        note("callback", "forge_checkpoint_state", run=run.id)
        return {"asked": self.asked}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        note("callback", "restore_state", state=dict(state))
        self.asked = state["asked"]

    @hookimpl
    def forge_stop_reason(self, run: RunContext, step: int) -> str | None:
        note("callback", "forge_stop_reason", run=run.id, step=step)
        return "seen enough" if step >= int(os.environ.get("HOOK_STOP_AT", "1000")) else None

    @hookimpl(wrapper=True)
    def forge_build_data(self, run: RunContext) -> Wrapper:
        return built("forge_build_data", (yield), run=run.id)

    @hookimpl(wrapper=True)
    def forge_build_tokenizer(self, run: RunContext, data: Any) -> Wrapper:
        return built("forge_build_tokenizer", (yield), run=run.id, data=list(data.splits))

    @hookimpl(wrapper=True)
    def forge_load_tokenizer(self, run: RunContext, directory: Path) -> Wrapper:
        return built("forge_load_tokenizer", (yield), run=run.id, directory=str(directory))

    @hookimpl(wrapper=True)
    def forge_build_model(self, run: RunContext, tokenizer: Any) -> Wrapper:
        return built("forge_build_model", (yield), run=run.id, vocab_size=tokenizer.vocab_size)

    @hookimpl(wrapper=True)
    def forge_build_optimizer(self, run: RunContext, parameters: Any) -> Wrapper:
        names = [name for name, _ in parameters]
        return built("forge_build_optimizer", (yield), run=run.id, parameters=names)

    @hookimpl(wrapper=True)
    def forge_build_schedule(self, run: RunContext) -> Wrapper:
        return built("forge_build_schedule", (yield), run=run.id)

    @hookimpl(wrapper=True)
    def forge_build_backend(self, run: RunContext) -> Wrapper:
        return built("forge_build_backend", (yield), run=run.id)

    @hookimpl(wrapper=True)
    def forge_build_generator(self, run: RunContext, model: Any, tokenizer: Any) -> Wrapper:
        facts = {"training": model.training, "vocab_size": tokenizer.vocab_size}
        return built("forge_build_generator", (yield), run=run.id, **facts)


def built(hook: str, result: Any, **facts: Any) -> Any:
    note("callback", hook, result=type(result).__name__, **facts)
    return result
