"""Measuring a run while it trains: histograms, system metrics, samples, facts."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Reference
from forge_process import Workplace

MEASURED = {
    "train.system_every": "0.01",
    "train.histograms_every": "7",
    "generation.every": "20",
    "tracker.names": '["notebook"]',
}


def journal(workplace: Workplace, hook: str) -> list[dict[str, Any]]:
    """Return the events of one hook in the run's journal."""
    lines = workplace.run.journal.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["hook"] == hook]


def told(workplace: Workplace) -> list[dict[str, Any]]:
    """Return the metrics events that the tracker ``notebook`` was given."""
    path = workplace.run.trackers / "notebook" / "events.jsonl"
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [entry for entry in entries if entry["hook"] == "metrics"]


def test_measuring_changes_no_weight_and_is_counted(
    workplace: Workplace, faults: str, reference: Reference
) -> None:
    place = dataclasses.replace(workplace, settings=MEASURED, environment={"PYTHONPATH": faults})
    place.train()

    mine, plain = place.result(), reference("fp32").result()
    samples = [mine.pop("samples.jsonl"), plain.pop("samples.jsonl")]
    assert samples[0] != samples[1]  # it also sampled on the way
    assert mine == plain
    histograms = journal(place, "forge_histograms")
    assert [event["step"] for event in histograms] == list(range(7, 60, 7))
    names = {name.partition("/")[0] for name in histograms[0]["values"]}
    assert names == {"weights", "gradients"}
    timing = [json.loads(line) for line in place.run.timing.read_text().splitlines()]
    shares = {row["step"]: row.get("histograms_share", 0.0) for row in timing}
    assert shares[8] > 0
    assert shares[4] == 0
    assert all(row["system/memory_percent"] > 0 for row in system_rows(place))


def system_rows(workplace: Workplace) -> list[dict[str, Any]]:
    """Return the rows of ``system.jsonl``."""
    return [json.loads(line) for line in workplace.run.system.read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_run_gives_equal_samples_and_no_system_value_twice(
    tmp_path: Path, faults: str
) -> None:
    environment = {"PYTHONPATH": faults}
    straight = Workplace(tmp_path / "straight", MEASURED, environment)
    straight.train()
    killed = Workplace(tmp_path / "killed", MEASURED, environment)
    process = killed.start()
    assert process.wait_for(lambda _: len(told(killed)) > 8 if notebook(killed) else False)
    process.kill()
    killed.train()

    assert killed.result() == straight.result()
    rows = [json.loads(line) for line in killed.run.samples.read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert {"prompt", "text", "tokens", "distinct_1", "distinct_2"} < set(rows[0])
    assert "seconds_per_token" not in rows[0]
    for event in journal(killed, "forge_samples"):
        assert all(sample["seconds_per_token"] > 0 for sample in event["samples"])

    system = [entry["step"] for entry in told(killed) if is_system(entry)]
    assert max(Counter(system).values()) == 1
    assert system == sorted(system)
    assert len(system) > 5
    steps = [event["step"] for event in journal(straight, "forge_metrics")]
    assert steps == sorted(steps)  # also between the sampler's thread and the step thread


def notebook(workplace: Workplace) -> bool:
    """Return whether the tracker has started to write."""
    return (workplace.run.trackers / "notebook" / "events.jsonl").exists()


def is_system(entry: dict[str, Any]) -> bool:
    """Return whether a metrics event holds system metrics."""
    return "system/cpu_percent" in entry["names"]


def test_the_start_tells_what_the_run_is(halfway: Workplace) -> None:
    (started,) = journal(halfway, "forge_run_start")
    facts = started["facts"]
    assert sum(facts["parameters_by_part"].values()) == facts["parameters"]
    assert set(facts["parameters_by_part"]) == {"embedding", "blocks", "norm"}
    embedding = facts["vocab_size"] * 32
    assert facts["parameters_without_embeddings"] == facts["parameters"] - embedding
    assert facts["architecture"]["name"] == "transformer"
    assert facts["architecture"]["layers"] == 2
    assert (facts["tokens_per_step"], facts["total_steps"]) == (8 * 32, 60)
    assert facts["planned_tokens"] == 8 * 32 * 60
    assert facts["total_flops"] == facts["flops_per_token"] * facts["planned_tokens"]
    assert facts["data"].startswith("text, ")
    assert facts["tokens"]["train"] > facts["tokens"]["validation"] > 0
    assert facts["hardware"]["device"] == "cpu"
    assert facts["hardware"]["memory_gb"] > 0
    assert facts["provenance"]["command"]
    assert facts["resolved"]["precision"] == "fp32"
