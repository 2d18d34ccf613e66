"""Kill -9 of whoever takes part in an upload: nothing half is visible, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace
from servers import FaultProxy, Seen, Server, make_s3_bucket, s3_server
from storage_parts import (
    as_json,
    assert_all_committed,
    committed,
    courier_pids,
    newest_and_best_are_sound,
    remote,
    s3_environment,
    slow,
    under_way,
    wait_until,
)


def kill_couriers(workplace: Workplace, known: list[int] | None = None) -> int:
    """Kill the couriers of the run as a power cut would; return how many there were."""
    found = courier_pids(workplace) if known is None else known
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def held(release: threading.Event) -> Callable[[Seen], str]:
    """Return what makes a proxy hold back every file it is sent until ``release`` is set."""

    def wait(request: Seen) -> str:
        if request.method == "PUT":
            release.wait(timeout=60.0)
        return ""

    return wait


def assert_only_whole_ones_are_visible(workplace: Workplace, url: str) -> None:
    """Check that what the commands show to exist is sound, down to the last byte."""
    run = remote(url)
    commits = run.commits()
    assert [run.verify(commit, deep=True) for commit in commits] == [[]] * len(commits)
    listed = as_json(workplace, "uploads", "list", "tiny")
    assert [item["step"] for item in listed] == [commit.step for commit in commits]
    entries = as_json(workplace, "runs", "list", "--storage", url)
    assert [entry["checkpoints"] for entry in entries] in ([], [[c.step for c in commits]])


def test_trainer_and_courier_killed_during_uploads_leave_no_trace(
    tmp_path: Path, reference: Reference, s3_proxy: FaultProxy, s3_url: str
) -> None:
    workplace = Workplace(
        tmp_path / "here",
        {"train.precision": "fp32", "storage.url": f'"{s3_url}"'},
        s3_environment(s3_proxy.url),
    )
    release = threading.Event()
    s3_proxy.faults = held(release)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    couriers = courier_pids(workplace)
    process.kill()
    assert kill_couriers(workplace, couriers) == 1
    release.set()
    assert_only_whole_ones_are_visible(workplace, s3_url)
    newest_and_best_are_sound(workplace)

    s3_proxy.faults = slow(0.1)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    process.kill()
    newest_and_best_are_sound(workplace)
    s3_proxy.faults = slow(0.0)

    output = workplace.train().output  # the second time while the orphan is still at work

    assert f"storage: everything is in {s3_url}/tiny/attempt-00001" in output
    assert workplace.result() == reference("fp32").result()
    assert_all_committed(workplace, remote(s3_url))
    assert_only_whole_ones_are_visible(workplace, s3_url)
    assert [path for path in workplace.run.uploads.iterdir() if path.is_dir()] == []
    wait_until(lambda: courier_pids(workplace) == [])


@pytest.mark.slow
def test_a_courier_that_dies_is_started_again_and_the_run_does_not_notice(
    tmp_path: Path, reference: Reference, s3_proxy: FaultProxy, s3_url: str
) -> None:
    workplace = Workplace(
        tmp_path / "here",
        {"train.precision": "fp32", "storage.url": f'"{s3_url}"'},
        s3_environment(s3_proxy.url),
    )
    s3_proxy.faults = slow(0.02)
    process = workplace.start()
    assert process.wait_for(under_way(workplace))
    assert kill_couriers(workplace) == 1

    output = process.finish(expect=0).output

    assert "it ended with code -9 and is started again" in output
    assert f"storage: everything is in {s3_url}/tiny/attempt-00001" in output
    assert workplace.result() == reference("fp32").result()
    assert_all_committed(workplace, remote(s3_url))


@pytest.fixture
def mortal(tmp_path: Path, aws: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server of the test's own, with a bucket; it forgets everything when it is killed."""
    server = s3_server(tmp_path / "server.log")
    server.start()
    make_s3_bucket(server, "mortal")
    aws.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_killed_during_uploads_costs_the_run_nothing(
    tmp_path: Path, reference: Reference, mortal: Server
) -> None:
    url = "s3://mortal/runs"
    settings = {
        "train.precision": "fp32",
        "storage.url": f'"{url}"',
        "storage.close_timeout": "2",
        "storage.stall_seconds": "5",
    }
    workplace = Workplace(tmp_path / "here", settings, s3_environment(mortal.url))
    process = workplace.start()
    assert process.wait_for(committed(workplace, least=1))
    assert process.wait_for(under_way(workplace))
    mortal.kill()
    output = process.finish(expect=0).output
    assert "not in storage yet: step " in output
    assert "forge uploads push-all tiny" in output
    assert "Traceback" not in output
    assert workplace.result() == reference("fp32").result()
    newest_and_best_are_sound(workplace)
    told = workplace.forge_here("uploads", "push-all", "tiny", "--timeout", "1", expect=1)
    assert "forge: " in told
    assert "Traceback" not in told

    mortal.start()  # it has lost all, the bucket too
    make_s3_bucket(mortal, "mortal")
    # the same command: done, but for what storage lacks
    told = workplace.train_here("--set", "storage.close_timeout=60")

    assert "already completed" in told
    assert f"everything asked for is in {url}/tiny/attempt-00001" in told
    assert_all_committed(workplace, remote(url))
    completion = remote(url).completion()
    assert completion is not None
    assert completion.state == "completed"
    assert "not in storage" not in workplace.train_here()


@pytest.mark.slow
def test_what_storage_has_lost_is_found_and_sent_again(tmp_path: Path, mortal: Server) -> None:
    url = "s3://mortal/runs"
    settings = {"train.max_steps": "6", "checkpoint.keep_last": "3", "storage.url": f'"{url}"'}
    workplace = Workplace(tmp_path / "here", settings, s3_environment(mortal.url))
    workplace.train_here()
    assert as_json(workplace, "uploads", "verify", "tiny") == [
        {"step": step, "problems": []} for step in (3, 5, 6)
    ]
    mortal.kill()
    mortal.start()
    make_s3_bucket(mortal, "mortal")
    lost = workplace.forge_here("uploads", "verify", "tiny", expect=1)
    assert "step        6  damaged: it was committed, and storage does not have it" in lost

    workplace.forge_here("uploads", "push-all", "tiny")
    assert_all_committed(workplace, remote(url))
    assert remote(url).read_file("recipe.toml") == workplace.run.recipe.read_bytes()

    commit = remote(url).commits()[-1]
    place = f"tiny/attempt-00001/checkpoints/step-00000006/{commit.token}/model.safetensors"
    remote(url)._connections.call("test", lambda storage, _: storage.write(place, b"other"))
    assert "has 5 bytes" in workplace.forge_here("uploads", "verify", "tiny", expect=1)
    workplace.forge_here("uploads", "push", "tiny@6")
    assert as_json(workplace, "uploads", "verify", "tiny")[-1] == {"step": 6, "problems": []}
    assert_all_committed(workplace, remote(url))
