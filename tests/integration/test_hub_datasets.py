"""Datasets of the Hugging Face hub, through its own client library, from a stand-in."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Hub, running_hub

ROW = {"instruction": "Add.", "output": "3"}

OPEN = """
import json, sys
from pathlib import Path
from llmforge.errors import ForgeError
from llmforge.testing import make_component, run_context
from llmforge_plugins.data.instruct import Instruct
given = json.loads(sys.argv[1])
notices = []
run = run_context(Path(given["home"]), notice=notices.append, offline=given["offline"])
if given["recorded"]:
    run = __import__("dataclasses").replace(run, resolved={"data": given["recorded"]})
try:
    data = make_component(Instruct, given["options"]).forge_build_data(run=run)
    found = {s: [e.messages[1].content for e in data.examples(s)] for s in data.splits}
    print(json.dumps([found, data.resolution, notices]))
except ForgeError as error:
    print(json.dumps([f"{error.message} | {error.remedy}", None, notices]))
"""


@dataclasses.dataclass
class Opened:
    """What a process found."""

    rows: Any
    resolution: Any
    notices: list[str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def rows(*answers: str) -> bytes:
    return "".join(json.dumps({**ROW, "output": answer}) + "\n" for answer in answers).encode()


def opened(
    home: Path, hub: Hub, recorded: Any = None, *, offline: bool = False, **options: Any
) -> Opened:
    """Open the data in a process of its own: the client reads its settings when it is imported."""
    given = {"home": str(home), "options": options, "recorded": recorded, "offline": offline}
    environment = {**hub.environment(), "HF_HOME": str(home / "hf"), "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, json.dumps(given)],
        env={**environment, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Opened(*json.loads(done.stdout.splitlines()[-1]))


def test_a_dataset_is_read_by_its_name_at_one_commit(hub: Hub, tmp_path: Path) -> None:
    first = hub.add(
        "datasets/acme/sums",
        {
            "data/train-00000.jsonl": rows("a", "b"),
            "data/test-00000.jsonl": rows("c"),
            "README.md": b"# Sums",
            "dataset_infos.json": b"{}",
        },
    )
    name = "hf://datasets/acme/sums"
    found = opened(tmp_path, hub, train=name, validation=f"{name}/data/test-*.jsonl")
    assert found.rows == {"train": ["a", "b"], "validation": ["c"]}
    assert found.resolution == {"datasets": {"acme/sums@main": first}}
    assert any(first in notice for notice in found.notices)

    hub.add("datasets/acme/sums", {"data/train.jsonl": rows("new"), "data/test.jsonl": rows("n")})
    resumed = opened(tmp_path, hub, found.resolution, train=name, validation_fraction=0.5)
    assert sorted(chain(*resumed.rows.values())) == ["a", "b"]
    pinned = opened(tmp_path, hub, train=f"{name}@{first}", validation_fraction=0.5)
    assert sorted(chain(*pinned.rows.values())) == ["a", "b"]
    assert pinned.resolution == {}


def test_what_was_fetched_serves_offline(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets/acme/sums", {"all.jsonl": rows("a", "b", "c")})
    name = "hf://datasets/acme/sums"
    online = opened(tmp_path, hub, path=name)
    asked = len(hub.requests)
    offline = opened(tmp_path, hub, path=name, offline=True)
    assert offline.rows == online.rows
    assert len(hub.requests) == asked
    other = opened(tmp_path, hub, path="hf://datasets/acme/other", offline=True)
    assert "acme/other is not in the cache" in other.rows
    assert "forge data prepare" in other.rows


def test_a_dataset_that_is_not_there_or_names_no_such_split_is_refused(
    hub: Hub, tmp_path: Path
) -> None:
    hub.add("datasets/acme/sums", {"train.jsonl": rows("a", "b")})
    missing = opened(tmp_path, hub, path="hf://datasets/acme/nothing")
    assert "no dataset acme/nothing at revision 'main'" in missing.rows
    assert "HF_TOKEN" in missing.rows
    name = "hf://datasets/acme/sums"
    split = opened(tmp_path, hub, train=name, validation=name)
    assert "no file of the dataset acme/sums can be told to be of the validation split" in (
        split.rows
    )
