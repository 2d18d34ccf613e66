"""The tracker keeps the contract of its kind, and writes readable lines."""

from __future__ import annotations

from llmforge import RunContext
from llmforge.events import EvaluationEnded, MetricsLogged, RunEnded, RunStarted
from llmforge.testing import TrackerContract, make_component

from llmforge_hello.tracker import Hello


class TestHello(TrackerContract):
    component = Hello


def start(run: RunContext, **changes: int) -> RunStarted:
    return RunStarted(
        run_id="r1",
        attempt=1,
        restart=0,
        directory=str(run.directory),
        config={},
        **changes,
    )


def read(run: RunContext) -> list[str]:
    path = run.directory / "trackers" / "hello" / "log.txt"
    return path.read_text(encoding="utf-8").splitlines()


def test_it_writes_one_line_for_each_event(forge_run_context: RunContext) -> None:
    tracker = make_component(Hello, {"digits": 2})
    tracker.forge_run_start(start(forge_run_context))
    tracker.forge_metrics(MetricsLogged(step=10, values={"train/loss": 2.345}, time=0.0))
    tracker.forge_eval_end(
        EvaluationEnded(step=10, split="validation", values={"val/loss": 2}, time=0.0, is_best=True)
    )
    tracker.forge_run_end(RunEnded(state="completed", reason="", step=10))
    assert read(forge_run_context) == [
        "hello, r1",
        "step     10  train/loss 2.35",
        "step     10  val/loss 2.00  best so far",
        "goodbye: completed at step 10",
    ]


def test_a_resumed_run_goes_on_in_the_same_file(forge_run_context: RunContext) -> None:
    make_component(Hello).forge_run_start(start(forge_run_context))
    make_component(Hello).forge_run_start(start(forge_run_context, resumed_from=7))
    assert read(forge_run_context) == ["hello, r1", "hello again, r1, at step 7"]
