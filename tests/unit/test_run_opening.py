"""What becomes of the operating system's errors while a run is worked on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llmforge.errors import RunError
from llmforge.recipe import load_recipe
from llmforge.run.plan import Plan, make_plan
from llmforge.run.setup.run_record import disk_errors_told


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(load_recipe("wikitext_tiny", overrides={"run.root": str(tmp_path / "runs")}))


def error(number: int, place: Path) -> OSError:
    return OSError(number, os.strerror(number), str(place))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_wherever_it_shows(plan: Plan, tmp_path: Path, number: int) -> None:
    place = tmp_path / "elsewhere"
    with (
        pytest.raises(RunError, match=r"no room to write .*elsewhere.*\n.*free some space"),
        disk_errors_told(plan),
    ):
        raise error(number, place)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_file_of_the_run_that_may_not_be_used_is_named(plan: Plan, number: int) -> None:
    with (
        pytest.raises(RunError, match=r"metrics\.jsonl cannot be used: .*\n.*run\.root"),
        disk_errors_told(plan),
    ):
        raise error(number, plan.directory.metrics)


@pytest.mark.parametrize(
    ("number", "place"), [(errno.EACCES, "elsewhere"), (errno.EBADF, "runs/x/run.json")]
)
def test_other_errors_pass_as_they_are(plan: Plan, tmp_path: Path, number: int, place: str) -> None:
    with pytest.raises(OSError, match=os.strerror(number)), disk_errors_told(plan):
        raise error(number, tmp_path / place)


def test_a_run_directory_that_is_a_file_is_named(plan: Plan) -> None:
    plan.root.mkdir()
    plan.directory.path.touch()
    with pytest.raises(RunError, match=plan.run_id), disk_errors_told(plan):
        (plan.directory.path / "recipe.toml").write_text("")
