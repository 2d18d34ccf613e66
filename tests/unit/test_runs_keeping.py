"""``forge runs``: tags, notes and names, the trash, logs, clones, comparing and verifying."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_drafts import save
from run_parts import complete, make_run, write_rows
from typer.testing import CliRunner, Result

from llmforge.cli.runs import app
from llmforge.errors import ForgeError, RunError, RunLockedError, UsageError
from llmforge.insight.explain import differences
from llmforge.rundir import (
    RunDirectory,
    RunLock,
    clear_run,
    entry_of,
    find_run,
    read_completion,
    read_record,
    write_record,
)
from llmforge.rundir.layout import completion_path
from llmforge.rundir.trash import delete_run, deleted_runs, remove_deleted

Forge = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of all runs, found through the environment."""
    monkeypatch.setenv("FORGE_RUN_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def forge(root: Path) -> Forge:
    """Runs ``forge runs`` and returns its result; a user's error is raised."""

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, ForgeError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


# Tags, notes and names -----------------------------------------------------------------------


def test_tags_are_added_and_taken_off_and_outlive_the_next_start(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x", tags=["base", "old"])
    assert forge("tag", "x", "+new", "-old").stdout == "x: base, new\n"
    write_record(directory, read_record(directory))  # as the training process does
    assert json.loads(forge("tag", "x", "--json").stdout)["tags"] == ["base", "new"]
    assert forge("tag", "x", "+old", "-new").stdout == "x: base, old\n"
    with pytest.raises(UsageError, match="has no tag 'none'"):
        forge("tag", "x", "-none")
    with pytest.raises(UsageError, match="neither a tag to add"):
        forge("tag", "x", "base")


def test_a_note_and_a_name_are_kept_and_shown(root: Path, forge: Forge) -> None:
    make_run(root, "x", name="first")
    assert forge("note", "x", "looks good | twice").stdout == "x: looks good | twice\n"
    assert forge("rename", "x", "second").stdout == "x is now called 'second', before 'first'\n"
    shown = json.loads(forge("list", "--json").stdout)
    assert (shown[0]["name"], shown[0]["note"]) == ("second", "looks good | twice")
    assert "looks good \\| twice" in forge("list", "--columns", "id,note", "--md").stdout
    assert forge("note", "x", "").stdout == "x has no note\n"


# The trash -----------------------------------------------------------------------------------


def test_a_deleted_run_comes_back_whole(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    done = complete(directory)
    directory.checkpoints.mkdir()
    save(directory.checkpoints, 5)
    result = forge("delete", "x", "--yes")
    assert "not uploaded: step 5" in result.stdout
    assert not directory.path.exists()
    assert read_completion(root, "x") is None
    assert forge("list").stdout.startswith("no runs")
    assert forge("restore").stdout.splitlines()[1].startswith("x ")
    forge("restore", "x")
    assert read_completion(root, "x") == done
    assert directory.record.exists()
    assert not directory.completion.exists()
    assert forge("restore").stdout == "the trash is empty\n"


def test_a_running_run_is_not_deleted_and_neither_are_those_named_with_it(
    root: Path, forge: Forge
) -> None:
    make_run(root, "a")
    make_run(root, "b", state="running", ended=None)
    with RunLock(root, "b"), pytest.raises(RunLockedError, match="being trained") as caught:
        forge("delete", "a", "b", "--yes")
    assert caught.value.exit_code == 3
    assert (root / "a").exists()


def test_nothing_is_deleted_without_a_yes(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match="needs a yes"):
        forge("delete", "x")
    assert (root / "x").exists()


def test_a_run_is_not_restored_over_another(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    forge("delete", "x", "--yes")
    make_run(root, "x")
    with pytest.raises(RunError, match="there is a run x"):
        forge("restore", "x")
    with pytest.raises(RunError, match="no run 'y' in the trash"):
        forge("restore", "y")


def test_gc_deletes_what_was_deleted_long_ago(root: Path, forge: Forge) -> None:
    for name in ("old", "new"):
        make_run(root, name)
        forge("delete", name, "--yes")
    (old,) = (item for item in deleted_runs(root) if item.run_id == "old")
    old.directory.path.rename(old.directory.path.with_name("old.deleted-1000"))
    assert "would delete 1 run" in forge("gc", "--dry-run").stdout
    assert len(deleted_runs(root)) == 2
    forge("gc", "--yes")
    assert [item.run_id for item in deleted_runs(root)] == ["new"]
    assert "nothing in the trash" in forge("gc", "--yes").stdout


def test_scripts_are_told_what_was_deleted(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match="needs a yes"):
        forge("delete", "x", "--json")
    (aside,) = json.loads(forge("delete", "x", "--json", "--yes").stdout)
    assert aside["id"] == "x"
    assert Path(aside["directory"]).is_dir()
    assert json.loads(forge("gc", "--json").stdout) == []  # nothing is that old
    now = ("gc", "--older-than", "0s", "--json")
    with pytest.raises(UsageError, match="needs a yes"):
        forge(*now)
    told = forge(*now, "--dry-run").stdout
    assert len(deleted_runs(root)) == 1
    assert forge(*now, "--yes").stdout == told
    assert [item["id"] for item in json.loads(told)] == ["x"]
    assert json.loads(told)[0]["bytes"] > 0
    assert not deleted_runs(root)


# Logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lines", "expected"), [("0", 0), ("1", 1), ("3", 3), ("99999", 5000)])
def test_the_last_lines_of_a_log_are_printed(
    root: Path, forge: Forge, lines: str, expected: int
) -> None:
    directory = make_run(root, "x")
    log = directory.path / "log.txt"
    log.write_text("".join(f"line {number} {'.' * 40}\n" for number in range(5000)))
    printed = forge("logs", "x", "-n", lines).stdout.splitlines()
    assert len(printed) == expected
    assert not printed or printed[-1].startswith("line 4999")


def test_following_a_run_that_has_ended_prints_its_log_and_stops(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    (directory.path / "log.txt").write_text("one\ntwo")
    assert forge("logs", "x", "-f").stdout == "one\ntwo\n"
    with pytest.raises(RunError, match="has no log"):
        make_run(root, "y")
        forge("logs", "y")


# Clones --------------------------------------------------------------------------------------


def test_a_clone_is_written_as_a_recipe_of_another_run(
    root: Path, forge: Forge, tmp_path: Path
) -> None:
    from llmforge.recipe import load_recipe, run_id

    recipe = load_recipe("wikitext_tiny")
    directory = make_run(root, run_id(recipe))
    import tomli_w

    directory.recipe.write_text(tomli_w.dumps(recipe.tables))
    with pytest.raises(UsageError, match="would be the same run"):
        forge("clone", directory.id)
    output = tmp_path / "new.toml"
    forge("clone", directory.id, "--set", "optimizer.adamw.lr=0.005", "-o", str(output))
    assert load_recipe(output).learning_rate == 0.005
    assert run_id(load_recipe(output)) != directory.id


# Comparing -----------------------------------------------------------------------------------


def test_results_are_compared_with_a_baseline(root: Path, forge: Forge) -> None:
    for run_id, loss, accuracy in (("a", 4.0, 0.5), ("b", 3.0, 0.5), ("c", 5.0, 0.6)):
        make_run(root, run_id, metrics={"val/loss": loss, "val/accuracy": accuracy})
    body = json.loads(forge("compare", "a", "b", "c", "--json").stdout)
    first, second, third = body["results"]["val/loss"]
    assert second == {"value": 3.0, "change": -1.0, "percent": -25.0, "best": True}
    assert (first["change"], third["percent"]) == (None, 25.0)
    assert [cell["best"] for cell in body["results"]["val/accuracy"]] == [False, False, True]
    body = json.loads(forge("compare", "a", "b", "--baseline", "c", "--json").stdout)
    assert body["runs"] == ["c", "a", "b"]
    text = forge("compare", "a", "b", "--only-changed").stdout
    assert "3.0000 * (-1.0000, -25.0%)" in text
    assert "accuracy" not in text
    assert (
        "| val/loss | 4.0000 | 3.0000 * (-1.0000, -25.0%) |"
        in forge("compare", "a", "b", "--md").stdout
    )
    assert "val/loss,b,3.0,-1.0,-25.0,True" in forge("compare", "a", "b", "--csv").stdout
    with pytest.raises(UsageError, match="two runs or more"):
        forge("compare", "a", "a")


@pytest.mark.parametrize(
    ("changes", "likelihood", "name"),
    [
        ({"fingerprints": {"data": "b" * 64}}, "likely", "data"),
        ({"step": 300}, "likely", "step"),
        ({"identity": {"keys": {"optimizer.adamw.lr": 1.0}}}, "likely", "optimizer.adamw.lr"),
        ({"identity": {"keys": {"run.seed": 2}}}, "possible", "run.seed"),
        ({"provenance": {"git": {"commit": "e" * 40}}}, "possible", "commit"),
        ({"provenance": {"packages": {"torch": "9"}}}, "possible", "torch"),
        ({"provenance": {"packages": {"rich": "9"}}}, "unlikely", "rich"),
        ({"resolved": {"precision": "bf16"}}, "possible", "precision"),
        ({"resolved": {"device": "cuda"}}, "unlikely", "device"),
    ],
)
def test_a_difference_is_ranked_by_what_it_can_explain(
    root: Path, changes: dict[str, Any], likelihood: str, name: str
) -> None:
    left = {"identity": {"keys": {}}, "fingerprints": {}, "provenance": {}, "resolved": {}}
    make_run(root, "a", **left)
    make_run(root, "b", **(left | changes))
    (found,) = differences(*(entry_of(RunDirectory(root / run_id)) for run_id in "ab"))
    assert (found.likelihood, found.name) == (likelihood, name)
    assert found.why


def test_diff_ranks_the_likeliest_cause_first(root: Path, forge: Forge) -> None:
    make_run(root, "a", fingerprints={"data": "a" * 64}, resolved={"device": "cpu"})
    make_run(root, "b", fingerprints={"data": "b" * 64}, resolved={"device": "cuda"})
    causes = json.loads(forge("diff", "a", "b", "--json").stdout)["causes"]
    assert [cause["name"] for cause in causes] == ["data", "device"]
    assert "trained on different data" in forge("diff", "a", "b").stdout


# Verifying -----------------------------------------------------------------------------------


def wrong_parts(forge: Forge) -> list[str]:
    result = forge("verify", "x", "--json", code=1)
    return [check["name"] for check in json.loads(result.stdout)["checks"] if check["problems"]]


def test_files_that_disagree_are_found(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x", metrics={"val/loss": 3.5})
    complete(directory)
    rows = [{"step": step, "val/loss": 3.5} for step in (10, 20, 600)]
    write_rows(directory.metrics, rows)
    assert wrong_parts(forge) == ["recipe"]  # there is none
    write_rows(directory.metrics, [*rows[:2], rows[0]])
    assert wrong_parts(forge) == ["recipe", "metrics"]
    write_rows(directory.metrics, [*rows[:2], {"step": 600, "val/loss": 9.0}])
    assert wrong_parts(forge) == ["recipe", "metrics"]
    write_rows(directory.metrics, rows)
    complete(directory, steps=599)
    assert wrong_parts(forge) == ["recipe", "completion"]
    complete(directory)
    directory.checkpoints.mkdir()
    (saved,) = save(directory.checkpoints, 5)
    assert wrong_parts(forge) == ["recipe"]
    weights = next(saved.path.glob("*.safetensors"))
    weights.write_bytes(b"\xff" + weights.read_bytes()[1:])
    assert wrong_parts(forge) == ["recipe", "checkpoints"]
    (directory.annotations).write_text("[")
    assert wrong_parts(forge) == ["recipe", "checkpoints", "annotations"]


def test_a_killed_run_is_not_at_fault_for_being_further_than_its_heartbeat(
    root: Path, forge: Forge
) -> None:
    directory = make_run(root, "x", state="running", ended=None, step=3, metrics={})
    directory.checkpoints.mkdir()
    save(directory.checkpoints, 5)
    assert wrong_parts(forge) == ["recipe", "metrics"]  # there are none
    write_record(directory, dataclasses.replace(read_record(directory), state="failed"))
    assert "checkpoints" in wrong_parts(forge)


def test_what_people_said_of_a_run_is_shown_with_it(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    forge("rename", "x", "the second")
    forge("note", "x", "looks good")
    shown = forge("show", "x").stdout
    assert "name       the second" in shown
    assert "note       looks good" in shown
    told = json.loads(forge("show", "x", "--json").stdout)
    assert (told["name"], told["note"]) == ("the second", "looks good")


@pytest.mark.parametrize("name", ["a" * 201, "two\nlines", "\x1b[31m"])
def test_a_name_that_no_table_can_show_is_refused(name: str, root: Path, forge: Forge) -> None:
    make_run(root, "x")
    with pytest.raises(UsageError, match="one line of at most 200"):
        forge("rename", "x", name)


def test_an_unreadable_run_is_shown_without_made_up_progress(root: Path, forge: Forge) -> None:
    make_run(root, "x").record.write_text("{")
    shown = forge("show", "x").stdout
    assert "unreadable" in shown
    assert "steps" not in shown
    assert "attempt" not in shown


def test_a_restore_that_was_killed_is_repeated(root: Path, forge: Forge) -> None:
    directory = make_run(root, "x")
    complete(directory)
    forge("delete", "x", "--yes")
    (item,) = deleted_runs(root)
    completion = completion_path(root, "x")
    completion.write_bytes(item.directory.completion.read_bytes())  # and then it was killed
    forge("restore", "x")
    assert directory.record.exists()
    assert completion.exists()


def test_what_gc_was_deleting_when_it_was_killed_is_not_restored(root: Path, forge: Forge) -> None:
    make_run(root, "x")
    make_run(root, "y")
    forge("delete", "x", "y", "--yes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_deleted(deleted_runs(root)[0])
    (left,) = deleted_runs(root)
    with pytest.raises(RunError, match="no run"):
        forge("restore", "x" if left.run_id == "y" else "y")
    forge("gc", "--older-than", "0s", "--yes")
    assert list((root / ".trash").iterdir()) == []


def killed(path: Path) -> None:
    """Delete one file, and be killed."""
    next(item for item in Path(path).iterdir() if item.is_file()).unlink()
    raise KeyboardInterrupt


def test_a_cleared_run_that_was_deleted_comes_back_as_a_cleared_one(
    root: Path, forge: Forge
) -> None:
    complete(make_run(root, "x"))
    aside = clear_run(root, "x")
    assert aside is not None
    forge("delete", aside.name, "--yes")
    forge("restore", aside.name)
    assert (aside / "run.json").exists()
    assert json.loads(forge("list", "--json").stdout) == []
    assert json.loads(forge("list", "--archived", "--json").stdout)[0]["id"] == aside.name


@pytest.mark.parametrize("gone", ["delete", "clear"])
def test_a_run_that_is_gone_is_not_another_one_that_begins_like_it(
    gone: str, root: Path, forge: Forge
) -> None:
    make_run(root, "run")
    other = make_run(root, "run2")
    forge(gone, "run", "--yes")
    for command in (("delete", "run", "--yes"), ("clear", "run", "--yes"), ("show", "run")):
        with pytest.raises(RunError, match=rf"run 'run' was {gone[:5]}.*'run2' begins with it"):
            forge(*command)
    assert other.record.exists()
    assert entry_of(find_run(root, "run2")).directory == other
    assert find_run(root, "ru") == other


def test_a_run_that_is_here_is_not_restored_as_another_one(root: Path, forge: Forge) -> None:
    make_run(root, "run")
    make_run(root, "run2")
    forge("delete", "run2", "--yes")
    with pytest.raises(RunError, match="run is not deleted"):
        forge("restore", "run")
    assert [item.run_id for item in deleted_runs(root)] == ["run2"]


def test_a_deleted_run_that_is_looked_for_is_said_to_be_in_the_trash(
    root: Path, forge: Forge
) -> None:
    make_run(root, "run")
    forge("delete", "run", "--yes")
    with pytest.raises(RunError, match="was deleted") as caught:
        forge("show", "run")
    assert "forge runs restore run" in caught.value.remedy


def test_a_run_that_another_command_moved_away_is_not_deleted_as_nothing(root: Path) -> None:
    directory = make_run(root, "x")
    delete_run(directory)
    with pytest.raises(RunError, match="gone already"):
        delete_run(directory)
    assert len(deleted_runs(root)) == 1


@pytest.mark.parametrize("content", ['{"added": 3}', '{"name": 5}', '{"added": [1]}', "[]"])
def test_annotations_of_wrong_types_are_damaged_and_hide_no_run(
    content: str, root: Path, forge: Forge
) -> None:
    directory = make_run(root, "x")
    directory.annotations.write_text(content)
    assert json.loads(forge("list", "--json").stdout)[0]["id"] == "x"
    with pytest.raises(RunError, match=r"annotations\.json cannot be read"):
        forge("tag", "x")
