"""The W&B tracker with the real client, against a stand-in for the service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb
from wandb_server import KEY, WandbServer
from wandb_tracked import (
    Tracked,
    end,
    evaluation,
    histograms,
    metrics,
    picture,
    plot,
    recipe,
    samples,
    saved,
)

from llmforge.component import Component
from llmforge.errors import ForgeError
from llmforge.plugins import load
from llmforge.testing import TrackerContract, make_component, run_context
from llmforge_plugins.trackers import _wandb_client, _wandb_run

# The client's own threads complain when a test ends its service under them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning:",
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a working directory of its own, no variables of the user, and no service left."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("API_KEY", "BASE_URL", "DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", "")  # so that what the tracker sets is undone
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", "")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(_wandb_run, "LOOK_EVERY", 0.3)
    monkeypatch.setattr(_wandb_run, "LOOK_EVERY_AT_THE_END", 0.2)
    monkeypatch.setitem(_wandb_client._SETTINGS, "finish_timeout", 3.0)
    monkeypatch.setitem(_wandb_client._SETTINGS, "x_file_stream_transmit_interval", 0.5)
    yield tmp_path
    wandb.teardown()


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    started = WandbServer().start()
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    yield started
    wandb.teardown()
    started.kill()


@pytest.fixture
def run(place: Path) -> Tracked:
    return Tracked(place / "run")


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps(run: Tracked, server: WandbServer, name: str = "loss") -> list[int]:
    """Return the steps of a metric in the order of arrival."""
    return [row["_step"] for row in run.remote(server).rows if name in row]


@pytest.mark.usefixtures("server")
class TestWandbOnAServer(TrackerContract):
    """The contract, with the service."""

    component: ClassVar[type[Component]] = load("tracker", "wandb")
    options: ClassVar[dict[str, Any]] = {"log_checkpoints": "all"}


# What arrives ---------------------------------------------------------------------------------


def test_a_run_arrives_with_all_that_is_known_of_it(run: Tracked, server: WandbServer) -> None:
    run.options |= {"group": "pairs", "job_type": "train", "log_checkpoints": "all"}
    run.write("recipe.toml", b"x = 1\n")
    run.write("plots/loss.png", picture())
    run.write("checkpoints/step-00000020/model.bin", b"weights")
    told = [metrics(10, loss=2.5, lr=1e-3), histograms(10), evaluation(20), samples(20, "river")]
    run.deliver(
        run.started(), recipe(), *told, saved(20, is_best=True), plot("loss"), end(20, tokens=9)
    )

    assert run.failures == []
    remote = run.remote(server)
    first, second = remote.rows
    assert (first["_step"], first["loss"], first["lr"]) == (10, 2.5, 1e-3)
    assert first["weights/head"] == {"_type": "histogram", "values": [3, 4], "bins": [0, 0.5, 1]}
    assert (second["_step"], second["val/loss"]) == (20, 2.0)
    table = json.loads(remote.files[second["samples"]["path"]])
    assert table == {
        "columns": ["step", "prompt", "text", "tokens"],
        "data": [[20, "The", "river", 5]],
    }
    assert remote.files[second["plots/loss"]["path"]] == picture()
    assert remote.config["train"] == {"max_steps": 40}
    assert remote.config["facts"] == {"parameters": 1000}
    told_of_it = [remote.info[key] for key in ("displayName", "tags", "notes", "groupName")]
    assert told_of_it == ["nano-test", ["nano", "single"], "a try", "pairs"]
    assert (remote.info["jobType"], remote.project) == ("train", "mine")
    assert (remote.summary["tokens"], remote.summary["state"]) == (9, "completed")
    assert remote.ends == [0]
    (kept,) = server.artifact("single_bs4-recipe")
    assert (kept.type, kept.files["recipe.toml"]) == ("recipe", b"x = 1\n")
    (checkpoint,) = server.artifact("single_bs4-checkpoint")
    assert set(checkpoint.aliases) == {"latest", "last", "best", "step-20"}
    assert checkpoint.files["model.bin"] == b"weights"


def test_trials_are_grouped_by_their_sweep(run: Tracked, server: WandbServer) -> None:
    facts = {"name": "trial-1", "sweep": "lr-sweep"}
    run.deliver(run.started(facts=facts), metrics(10, loss=2.5), end(20))
    assert run.failures == []
    assert run.remote(server).info["groupName"] == "lr-sweep"


def test_the_table_of_samples_holds_those_of_all_steps(run: Tracked, server: WandbServer) -> None:
    told = [samples(10, "a", "b"), samples(20, "c")]
    rows = [row for event in told for row in event.samples]
    run.write("samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    run.deliver(run.started(), *told, end(20))
    remote = run.remote(server)
    tables = [json.loads(remote.files[row["samples"]["path"]])["data"] for row in remote.rows]
    assert [[row[2] for row in table] for table in tables] == [["a", "b"], ["a", "b", "c"]]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("none", []),
        ("last", [["last", "latest", "step-30"]]),
        ("best", [["best", "latest", "step-20"]]),
        ("all", [["step-10"], ["best", "step-20"], ["last", "latest", "step-30"]]),
    ],
)
def test_checkpoints_are_uploaded_as_asked(
    run: Tracked, server: WandbServer, which: str, expected: list[list[str]]
) -> None:
    run.options["log_checkpoints"] = which
    for step in (10, 20, 30):
        run.write(f"checkpoints/step-{step:08d}/model.bin", str(step).encode())
    told = [saved(10), saved(20, is_best=True), saved(30)]
    run.deliver(run.started(), metrics(1), *told, end(30))
    found = [sorted(item.aliases) for item in server.artifact("single_bs4-checkpoint")]
    assert found == expected


@pytest.mark.parametrize(
    ("state", "code"), [("completed", 0), ("early-stopped", 0), ("failed", 1), ("interrupted", 1)]
)
def test_how_the_run_ended_is_told(
    run: Tracked, server: WandbServer, state: str, code: int
) -> None:
    run.deliver(run.started(), metrics(1), end(1, state))
    assert run.remote(server).ends == [code]
    assert run.remote(server).summary["state"] == state


# Once each ------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_wandb_run(run: Tracked, server: WandbServer) -> None:
    run.deliver(run.started(), metrics(1), metrics(2), end(2, "interrupted"))
    before = run.identity
    run.deliver(run.started(2), metrics(2), metrics(3), evaluation(3), end(3))
    assert run.identity == before
    assert list(server.runs) == [before["id"]]
    assert steps(run, server) == [1, 2, 3]
    assert run.remote(server).sessions == 2


def test_what_is_told_again_because_nobody_noted_it_arrives_once(
    run: Tracked, server: WandbServer
) -> None:
    run.options["log_checkpoints"] = "all"
    run.write("plots/loss.png", picture())
    run.write("recipe.toml", b"x = 1\n")
    run.write("checkpoints/step-00000002/model.bin", b"weights")
    told = [metrics(1), metrics(2), histograms(2), samples(2, "a"), saved(2), plot("loss")]
    run.deliver(run.started(), recipe(), *told, end(2))
    before = (run.remote(server).rows, len(server.artifacts))
    run.cursor.unlink()  # a courier killed before it wrote down what was delivered
    run.deliver()
    assert (run.remote(server).rows, len(server.artifacts)) == before


def test_values_that_come_late_are_not_lost(run: Tracked, server: WandbServer) -> None:
    run.deliver(run.started(), metrics(2, loss=0.5, cpu=1), end(2, "interrupted"))
    late = [evaluation(2), metrics(5, loss=0.2, cpu=2), metrics(4, gpu=3), metrics(6, loss=0.1)]
    run.deliver(run.started(2), *late, end(6))
    rows = run.remote(server).rows
    assert [(row["_step"], row["val/loss"]) for row in rows if "val/loss" in row] == [(3, 2.0)]
    assert [row["cpu"] for row in rows if "cpu" in row] == [1, 2]
    assert [row["gpu"] for row in rows if "gpu" in row] == [3]
    assert [row["loss"] for row in rows if "loss" in row] == [0.5, 0.2, 0.1]


def test_a_file_that_never_arrived_is_sent_by_the_next_start(
    run: Tracked, server: WandbServer
) -> None:
    run.deliver(run.started(), samples(1, "a"), metrics(2), end(2, "interrupted"))
    (path,) = [name for name in run.remote(server).files if name.startswith("media/table")]
    content = run.remote(server).files.pop(path)
    run.deliver(run.started(2), metrics(3), end(3))
    assert run.remote(server).files[path] == content


# A service that is away -----------------------------------------------------------------------


def test_a_service_dead_at_the_start_is_caught_up_with(run: Tracked, server: WandbServer) -> None:
    server.kill()
    run.journal(run.started(), metrics(1), metrics(2))
    thread = run.delivery()
    wait_until(lambda: bool(run.failures))
    assert "does not answer" in run.failures[0]
    server.start()
    wait_until(lambda: bool(server.runs))
    run.journal(metrics(3), end(3))
    thread.close()
    thread.join(60)
    assert steps(run, server) == [1, 2, 3]
    assert (thread.delivered, thread.pending()) == (5, 0)


@pytest.mark.slow
def test_a_service_dead_in_the_middle_for_a_while_costs_nothing(
    run: Tracked, server: WandbServer
) -> None:
    run.journal(run.started(), *(metrics(step) for step in range(1, 6)))
    thread = run.delivery()
    wait_until(lambda: thread.delivered == 5)  # the row of step 5 is still open
    server.kill()
    run.journal(*(metrics(step) for step in range(6, 12)))
    wait_until(lambda: bool(run.failures))
    assert thread.delivered == 5
    server.start()
    run.journal(end(11))
    thread.close()
    thread.join(60)
    assert steps(run, server) == list(range(1, 12))
    assert (thread.delivered, thread.pending()) == (13, 0)


@pytest.mark.slow
def test_what_a_service_dead_at_the_end_lacks_is_delivered_by_a_later_process(
    run: Tracked, server: WandbServer
) -> None:
    run.journal(run.started(), *(metrics(step) for step in range(1, 6)))
    thread = run.delivery()
    wait_until(lambda: thread.delivered == 5)
    server.kill()
    run.journal(metrics(6), samples(6, "a"), end(6))
    thread.close()
    thread.join(30)
    assert not thread.is_alive()
    assert (thread.delivered, thread.pending()) == (5, 4)
    assert any("does not answer" in message for message in run.failures)
    wandb.teardown()  # the client ends with the courier's process

    server.start()
    later = run.deliver()
    assert steps(run, server) == list(range(1, 7))
    assert steps(run, server, "samples") == [6]
    assert (later.delivered, later.pending()) == (9, 0)


def test_what_a_service_answers_but_never_takes_is_told_again(
    run: Tracked, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wandb_run, "PATIENCE", 2.0)
    server.refuses.add("file_stream")
    run.journal(run.started(), metrics(1), metrics(2), metrics(3))
    thread = run.delivery()
    wait_until(lambda: any("is sent again" in message for message in run.failures))
    assert thread.delivered <= 1
    server.refuses.clear()
    run.journal(end(3))
    thread.close()
    thread.join(60)
    assert steps(run, server) == [1, 2, 3]
    assert (thread.delivered, thread.pending()) == (5, 0)


# Logins and places ----------------------------------------------------------------------------


def preflight(place: Path, **options: Any) -> tuple[list[Any], list[str]]:
    """Return problems and notices of the tracker's preflight."""
    notices: list[str] = []
    tracker: Any = make_component(load("tracker", "wandb"), options)
    found = tracker.forge_preflight(run=run_context(place, notice=notices.append))
    return found, notices


def test_a_missing_key_is_a_problem_with_its_remedy(place: Path) -> None:
    (problem,), _ = preflight(place)
    assert "no W&B API key" in problem.message
    assert "WANDB_API_KEY" in problem.remedy
    assert "offline" in problem.remedy
    assert preflight(place, mode="offline") == ([], [])
    assert preflight(place, mode="disabled") == ([], [])


def test_a_refused_key_is_a_problem(
    place: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preflight(place) == ([], [])
    monkeypatch.setenv("WANDB_API_KEY", "local-" + "5" * 40)
    (problem,), _ = preflight(place)
    assert "refuses the key" in problem.message
    assert "5555" not in f"{problem}"


def test_a_service_that_does_not_answer_is_only_noted_and_soon(
    place: Path, server: WandbServer
) -> None:
    server.kill()
    began = time.monotonic()
    problems, (notice,) = preflight(place)
    assert problems == []
    assert "does not answer" in notice
    assert time.monotonic() - began < 8


def test_the_key_is_taken_from_dotenv_and_written_nowhere(
    run: Tracked, server: WandbServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    Path(".env").write_text(f"WANDB_API_KEY={KEY}\n")
    run.deliver(run.started(), metrics(1), samples(1, "a"), end(1))
    assert steps(run, server) == [1]
    files = [path for path in place.rglob("*") if path.is_file() and path.name != ".env"]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


# Read back -----------------------------------------------------------------------------------


def kept_run(address: str, root: Path) -> Any:
    """Return the run at an address, as the tracker finds it for the core."""
    return make_component(load("tracker", "wandb")).forge_open_tracked_run(address=address)


def test_what_a_run_logged_is_read_back(run: Tracked, server: WandbServer, place: Path) -> None:
    run.options["log_checkpoints"] = "all"
    run.write("recipe.toml", b"x = 1\n")
    for step in (10, 20):
        run.write(f"checkpoints/step-{step:08d}/tokenizer/a b.bin", str(step).encode())
    told = [recipe(), metrics(1), saved(10, is_best=True), saved(20)]
    run.deliver(run.started(), *told, end(20))

    found = kept_run(f"us/mine/{run.identity['id']}", place)
    assert (found.run_id, found.attempt) == ("single_bs4", 1)
    assert found.link == f"{server.url}/us/mine/runs/{run.identity['id']}"
    assert found.recipe() == "x = 1\n"
    kept = {(item.step, item.is_best) for item in found.checkpoints()}
    assert kept == {(10, True), (20, False)}
    found.fetch(10, place / "fetched")
    assert (place / "fetched" / "tokenizer" / "a b.bin").read_bytes() == b"10"
    assert list((place / "home").iterdir()) == []
    assert list((place / "work").iterdir()) == []


def test_a_run_without_artifacts_has_no_recipe_and_no_checkpoint(
    run: Tracked, server: WandbServer, place: Path
) -> None:
    run.deliver(run.started(), metrics(1), end(1))
    found = kept_run(f"us/mine/{run.identity['id']}", place)
    assert found.recipe() is None
    assert found.checkpoints() == []


@pytest.mark.parametrize(
    ("address", "variables", "message"),
    [
        ("abc", {}, "write wandb:ENTITY/PROJECT/ID"),
        ("us/mine/other", {}, "has no run 'us/mine/other', or this key may not see it"),
        ("us/mine/x", {"WANDB_API_KEY": "local-" + "5" * 40}, "refuses the key"),
        ("us/mine/x", {"WANDB_API_KEY": ""}, "no W&B API key was found"),
        ("us/mine/x", {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_a_run_that_cannot_be_read_back_is_told_in_one_message(
    server: WandbServer,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ForgeError, ConnectionError)) as caught:
        kept_run(address, place)
    assert message in str(caught.value)


def test_nothing_is_written_outside_its_place(
    run: Tracked, server: WandbServer, place: Path
) -> None:
    run.write("recipe.toml", b"x = 1\n")
    run.deliver(run.started(), recipe(), metrics(1), samples(1, "a"), end(1))
    assert list((place / "home").iterdir()) == []
    assert list((place / "work").iterdir()) == []
    assert {item.name for item in run.directory.iterdir()} == {
        "trackers",
        "recipe.toml",
        "journal.jsonl",
        "cursor.json",
    }
