"""``forge deploy`` killed with -9 at random instants: nothing half visible, a retry completes."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator

import pytest
from deploy_parts import Files, exported, in_storage, on_hub, stored_names, with_variables
from forge_process import Workplace
from hub_stand_in import Hub, running_hub
from servers import FaultProxy, Seen, Server, make_s3_bucket
from storage_parts import s3_environment

KILLS = 4
"""Of each of two checkpoints: half at instants of the whole process, half while it sends."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Visible = Callable[[], Files | None]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.seconds_per_blob = 0.5
        yield hub


def slow(request: Seen) -> str:
    """Have everything that is sent take longer, so that a kill hits it."""
    if request.method == "PUT":
        time.sleep(0.2)
    return ""


@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_deploying_to_an_s3_server(
    trained: Workplace, s3: Server, s3_proxy: FaultProxy, archive: str
) -> None:
    bucket = f"bucket-{secrets.token_hex(4)}"
    make_s3_bucket(s3, bucket)
    s3_proxy.faults = slow
    url = f"s3://{bucket}/models/tiny"
    place = with_variables(trained, s3_environment(s3_proxy.url))
    partly = killed_and_resumed(
        place,
        ("--to", url, "--archive", archive),
        visible=lambda: in_storage(url),
        sent=lambda: sum(request.method == "PUT" for request in s3_proxy.seen),
        longest=1.0 if archive == "none" else 0.3,
    )
    assert len(stored_names(url)) == 2  # metadata.json and one version
    assert partly >= 2


def test_deploying_to_the_hub(trained: Workplace, hub: Hub) -> None:
    place = with_variables(trained, hub.environment())
    partly = killed_and_resumed(
        place,
        ("--to", "hf://acme/tiny"),
        visible=lambda: on_hub(hub, "acme/tiny"),
        sent=lambda: sum(request.startswith("PUT") for request in hub.requests),
        longest=0.5,
    )
    repository = hub.repositories["models/acme/tiny"]
    assert repository.private
    assert len(repository.commits) == 3  # made, the first checkpoint, the second
    assert partly >= 2


def killed_and_resumed(
    place: Workplace,
    to: tuple[str, ...],
    *,
    visible: Visible,
    sent: Callable[[], int],
    longest: float,
) -> int:
    """Deploy one checkpoint and then another, each killed again and again and then left alone.

    Args:
        place: has the run.
        to: where it is deployed to.
        visible: returns what a reader finds.
        sent: returns how many files were sent so far.
        longest: seconds that sending takes at least, within which half of the kills are.

    Returns:
        How many kills came when files had been sent and were not visible yet.
    """
    draw = random.Random(11)
    before: Files | None = None
    partly = 0
    for address in ("tiny@10", "tiny"):
        after = exported(place, address)
        started = time.monotonic()
        place.forge("deploy", address, *to, "--dry-run").finish(expect=0)
        usual = time.monotonic() - started
        for number in range(KILLS):
            known = sent()
            process = place.forge("deploy", address, *to)
            if number % 2 == 0:
                process.wait_for(lambda _, known=known: sent() > known)  # type: ignore[misc]
                time.sleep(draw.uniform(0.0, longest))
            else:
                time.sleep(usual * draw.uniform(0.2, 1.3))
            process.kill()
            assert visible() in (before, after)
            partly += sent() > known and visible() == before
        place.forge("deploy", address, *to).finish(expect=0)
        assert visible() == after
        assert not place.run.deploying.exists()
        before = after
    return partly
