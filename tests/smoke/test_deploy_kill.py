"""``forge deploy`` killed with -9 at random instants: nothing half visible, a retry completes."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from deploy_parts import Files, exported, in_storage, on_hub, stored_names, with_variables
from forge_process import Workplace
from hub_stand_in import Hub, running_hub
from servers import FaultProxy, Seen, Server, make_s3_bucket
from storage_parts import s3_environment

KILLS = 6
"""Kills that have to hit a process while it sends; others come before and after."""
_ATTEMPTS = 3
"""Kills at most before a deployment is left alone."""
_LONGEST = 60.0
"""Seconds after which a deployment that sends nothing is a failure."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Visible = Callable[[], Files | None]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.seconds_per_request = 0.1
        hub.seconds_per_blob = 0.5
        yield hub


def slow(request: Seen) -> str:
    """Have everything that is sent take longer, so that a kill hits it."""
    time.sleep(0.3 if request.method == "PUT" else 0.02)
    return ""


@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_deploying_to_an_s3_server(
    trained: Workplace, s3: Server, s3_proxy: FaultProxy, archive: str
) -> None:
    bucket = f"bucket-{secrets.token_hex(4)}"
    make_s3_bucket(s3, bucket)
    s3_proxy.faults = slow
    url = f"s3://{bucket}/models/tiny"
    killed_and_resumed(
        with_variables(trained, s3_environment(s3_proxy.url)),
        ("--to", url, "--archive", archive),
        visible=lambda: in_storage(url),
        requests=lambda: sum(request.method == "PUT" for request in s3_proxy.seen),
        longest=1.0 if archive == "none" else 0.5,
    )
    assert len(stored_names(url)) == 2  # metadata.json and one version


def test_deploying_to_the_hub(trained: Workplace, hub: Hub) -> None:
    deployed = killed_and_resumed(
        with_variables(trained, hub.environment()),
        ("--to", "hf://acme/tiny"),
        visible=lambda: on_hub(hub, "acme/tiny"),
        requests=lambda: len(hub.requests),
        longest=1.5,
    )
    repository = hub.repositories["models/acme/tiny"]
    assert repository.private
    assert len(repository.commits) == 1 + deployed  # the first one made it
    assert len(hub.blobs) <= 4  # two large files of two checkpoints


def killed_and_resumed(
    place: Workplace,
    to: tuple[str, ...],
    *,
    visible: Visible,
    requests: Callable[[], int],
    longest: float,
) -> int:
    """Deploy two checkpoints in turn, each killed a few times and then left alone.

    Args:
        place: has the run.
        to: where it is deployed to.
        visible: returns what a reader finds.
        requests: returns how many the server got so far.
        longest: seconds that sending takes at least.

    Returns:
        How many deployments there were.
    """
    draw = random.Random(11)
    before: Files | None = None
    hits = deployed = 0
    for address in cycle(("tiny@10", "tiny")):
        after = exported(place, address)
        for number in range(_ATTEMPTS):
            known = requests()
            process = place.forge("deploy", address, *to)
            if number == 1:  # an instant of the whole process
                time.sleep(draw.uniform(0.0, 4.0))
            else:
                deadline = time.monotonic() + _LONGEST
                while requests() == known:
                    if process.process.poll() is not None:
                        break  # all had been sent when the one before was killed
                    assert time.monotonic() < deadline, process.output
                    time.sleep(0.002)
                time.sleep(draw.uniform(0.0, longest))
            process.kill()
            found = visible()
            assert found in (before, after)
            hits += requests() > known and found == before
            if found == after:
                break
        place.forge("deploy", address, *to).finish(expect=0)
        assert visible() == after
        assert not place.run.deploying.exists()
        before, deployed = after, deployed + 1
        if hits >= KILLS:
            break
    return deployed
