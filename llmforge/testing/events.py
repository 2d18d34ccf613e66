"""One event of every kind, as a short run would emit them."""

from __future__ import annotations

from llmforge import events


def one_of_each_event(directory: str = "") -> tuple[events.Event, ...]:
    """Return one event of every kind in the order a run emits them.

    Args:
        directory: the run directory that ``RunStarted`` names.
    """
    return (
        events.RunStarted(
            run_id="test-run",
            attempt=1,
            restart=0,
            directory=directory,
            config={"run": {"tags": ["a", "b"]}, "train": {"max_steps": 20}},
            facts={"hardware": "CPU", "parameters": 1000},
        ),
        events.TrialStarted(sweep_id="sweep", trial_id="trial-1", parameters={"optimizer.lr": 0.1}),
        events.MetricsLogged(
            step=10, values={"train/loss": 2.5, "learning_rate": 1e-3}, time=1000.0
        ),
        events.HistogramsLogged(
            step=10, values={"weights/head": {"edges": [0.0, 0.5, 1.0], "counts": [3.0, 4.0]}}
        ),
        events.EvaluationEnded(
            step=20, split="validation", values={"val/loss": 2.0}, time=1001.0, is_best=True
        ),
        events.SamplesGenerated(
            step=20, samples=({"prompt": "The", "text": " end \u2013 für jetzt", "tokens": 5},)
        ),
        events.CheckpointSaved(
            step=20, path="checkpoints/step-00000020", size=4096, is_best=True, seconds=0.25
        ),
        events.CheckpointUploaded(step=20, url="memory://runs/test-run/step-00000020"),
        events.ArtifactWritten(name="loss", path="plots/loss.png", type="plot", step=20),
        events.TrialEnded(sweep_id="sweep", trial_id="trial-1", state="completed", value=2.0),
        events.RunFailed(step=20, message="what went wrong"),
        events.RunEnded(state="failed", reason="error", step=20, metrics={"val/loss": 2.0}),
    )
