"""``forge deploy`` killed with -9 at random instants: nothing half is visible, a retry completes."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator

import pytest
from deploy_parts import Files, exported, in_storage, on_hub, stored_names, with_variables
from forge_process import Workplace
from hub_stand_in import Hub, running_hub
from servers import Server, make_s3_bucket
from storage_parts import s3_environment

KILLS = 6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Visible = Callable[[], Files | None]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.seconds_per_blob = 0.3
        yield hub


@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_deploying_to_an_s3_server(
    trained: Workplace, s3: Server, monkeypatch: pytest.MonkeyPatch, archive: str
) -> None:
    bucket = f"bucket-{secrets.token_hex(4)}"
    make_s3_bucket(s3, bucket)
    url = f"s3://{bucket}/models/tiny"
    place = with_variables(trained, s3_environment(s3))
    killed_and_resumed(place, ("--to", url, "--archive", archive), lambda: in_storage(url))
    assert len(stored_names(url)) == 2  # metadata.json and one version


def test_deploying_to_the_hub(trained: Workplace, hub: Hub) -> None:
    place = with_variables(trained, hub.environment())
    to = ("--to", "hf://acme/tiny")
    killed_and_resumed(place, to, lambda: on_hub(hub, "acme/tiny"))
    repository = hub.repositories["models/acme/tiny"]
    assert repository.private
    assert len(repository.commits) == 3  # made, the first checkpoint, the second
    sent = [request for request in hub.requests if request.startswith("PUT")]
    assert len(hub.blobs) <= len(sent)


def killed_and_resumed(place: Workplace, to: tuple[str, ...], visible: Visible) -> None:
    """Deploy one checkpoint and then another, each killed again and again and then left alone."""
    draw = random.Random(11)
    before: Files | None = None
    for address in ("tiny@10", "tiny"):
        after = exported(place, address)
        started = time.monotonic()
        place.forge("deploy", address, *to, "--dry-run").finish(expect=0)
        usual = time.monotonic() - started
        for _ in range(KILLS):
            process = place.forge("deploy", address, *to)
            time.sleep(usual * draw.uniform(0.5, 1.3))
            process.kill()
            assert visible() in (before, after)
        place.forge("deploy", address, *to).finish(expect=0)
        assert visible() == after
        assert not place.run.deploying.exists()
        before = after
