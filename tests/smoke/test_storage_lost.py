"""The machine is lost: the same command elsewhere resumes from storage, or is done there too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace
from servers import Server
from storage_parts import (
    assert_all_committed,
    committed,
    last_committed,
    lose_machine,
    remote,
    s3_environment,
    steps,
    stored_at,
)

SECURED = {"storage.background": "false", "storage.concurrency": "8"}
"""Each checkpoint is in storage before the next step, so that a test knows what there is."""


def test_a_machine_lost_in_the_middle_costs_the_steps_since_the_last_commit(
    tmp_path: Path, reference: Reference, s3: Server, s3_url: str
) -> None:
    workplace = Workplace(
        tmp_path / "here",
        {"train.precision": "fp32", **stored_at(s3_url)},
        s3_environment(s3.url),
    )
    process = workplace.start("--set", "storage.background=false")  # it does not run ahead
    assert process.wait_for(committed(workplace, least=2))
    process.kill()
    lose_machine(workplace)  # and the courier still runs
    found = last_committed(remote(s3_url))
    assert 0 < found < 60

    output = workplace.train().output

    there = last_committed(remote(s3_url))
    assert there == 60
    assert f"{s3_url}/tiny/attempt-00001" in output
    went_on = [step for step in range(found, 60) if f"resuming from step {step}\n" in output]
    assert went_on  # the courier that was left may have committed a later one
    assert workplace.result() == reference("fp32").result()
    assert_all_committed(workplace, remote(s3_url))
    assert remote(s3_url).attempts() == [1]
    assert f"step {went_on[0]}" in "\n".join(workplace.record["notices"])

    lose_machine(workplace)
    output = workplace.train_here()
    assert "completed elsewhere" in output
    assert "already completed" in output
    assert "forge runs pull tiny" in output
    assert not workplace.run.checkpoints.exists()
    assert (workplace.run.plots).is_dir()
    assert "already completed" in workplace.train_here()

    workplace.forge_here("runs", "pull", "tiny", "--checkpoint", "last")
    assert workplace.result() == reference("fp32").result()
    assert steps(workplace.checkpoints) == [60]
    text = workplace.forge_here(
        "generate", "tiny", "--prompt", "The river", "--max-new-tokens", "4"
    )
    assert "The river" in text


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run stopped at step 12, all of it in a folder; not to be changed."""
    place = tmp_path_factory.mktemp("stopped")
    url = f"file://{place}/storage"
    workplace = Workplace(place / "here", {**stored_at(url), **SECURED})
    workplace.train_here("--set", "train.stop_at=12")
    assert last_committed(remote(url)) == 12
    return workplace


@pytest.fixture
def there(stopped: Workplace, tmp_path: Path) -> tuple[Workplace, Path]:
    """A copy of the run with a storage of its own, and where that lies."""
    shutil.copytree(stopped.path.parent, tmp_path / "copy")
    storage = tmp_path / "copy" / "storage"
    settings = {**stopped.settings, "storage.url": f'"file://{storage}"'}
    return Workplace(tmp_path / "copy" / "here", settings), storage


def test_damaged_checkpoints_here_are_replaced_by_sound_ones_from_storage(
    there: tuple[Workplace, Path],
) -> None:
    workplace, _ = there
    for path in workplace.checkpoints:
        (path / "model.safetensors").write_bytes(b"damaged")
    output = workplace.train_here("--set", "train.stop_at=13")
    assert "resuming from step 12" in output
    assert (workplace.run.checkpoints / "step-00000012.corrupt-1").is_dir()


def test_a_damaged_checkpoint_in_storage_is_passed_over_for_the_one_before(
    there: tuple[Workplace, Path],
) -> None:
    workplace, storage = there
    (newest,) = storage.glob("tiny/attempt-00001/checkpoints/step-00000012/*/model.safetensors")
    content = newest.read_bytes()
    newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    lose_machine(workplace)
    output = workplace.train_here("--set", "train.stop_at=13")
    assert "step 12 in storage is damaged" in output
    assert "resuming from step 10" in output


def test_storage_that_holds_only_damaged_checkpoints_does_not_lead_to_a_fresh_start(
    there: tuple[Workplace, Path],
) -> None:
    workplace, storage = there
    for path in storage.glob("tiny/attempt-00001/checkpoints/*/*/model.safetensors"):
        path.write_bytes(b"damaged")
    lose_machine(workplace)
    output = workplace.train_here(expect=1)
    assert "is sound; not starting over" in output
    assert "Traceback" not in output
    assert workplace.checkpoints == []


def test_another_recipe_under_the_same_id_is_refused_by_what_storage_holds(
    there: tuple[Workplace, Path],
) -> None:
    workplace, _ = there
    lose_machine(workplace)
    output = workplace.train_here("--set", "train.batch_size=4", expect=1)
    assert "is run tiny of a different recipe" in output
    assert not workplace.run.record.exists()


def test_a_storage_that_does_not_answer_is_no_reason_to_begin_anew(
    tmp_path: Path, there: tuple[Workplace, Path]
) -> None:
    workplace, _ = there
    dead = ["--set", 'storage.url="s3://nowhere/runs"']
    workplace = Workplace(workplace.path, workplace.settings, s3_environment("http://127.0.0.1:9"))
    unreachable = "storage was not asked for a newer checkpoint, resuming from here"
    output = workplace.train_here(
        *dead,
        "--set",
        "train.stop_at=13",
        "--set",
        "storage.close_timeout=1",
        "--set",
        "storage.background=true",
    )
    assert unreachable in output
    assert "not in storage yet: step" in output
    assert workplace.record["step"] == 13

    lose_machine(workplace)
    output = workplace.train_here(*dead, expect=1)
    assert "Could not connect" in output
    assert "the run may be there, so nothing was started" in output
    assert "--set storage.resume=false" in output
    assert "Traceback" not in output
    assert not workplace.run.path.exists()


def test_no_checkpoint_is_fetched_where_the_run_cannot_be_trained(
    tmp_path: Path, stopped: Workplace
) -> None:
    workplace = stopped.copy(tmp_path / "here")
    lose_machine(workplace)
    output = workplace.train_here("--set", "train.device=cuda:99", expect=2)
    assert "train.device: 'cuda:99' is not available" in output
    assert "fetching" not in output
    assert not workplace.run.checkpoints.exists()
