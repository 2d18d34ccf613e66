"""The skip of a completed run from a note: the same words, and only while everything holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.cli.early.finished import finished_run
from llmforge.recipe import load_recipe
from llmforge.run.plan import make_plan
from llmforge.rundir import Completion, clear_run, write_completion
from llmforge.rundir.layout import completion_path

RUN = """
import sys
sys.argv[0] = "forge"
sys.path.remove("")  # the script has no working directory there
from llmforge.cli.early import finished
finished.STARTED += {settled}
from llmforge.__main__ import main
try:
    main()
finally:
    print("whole" if "pydantic" in sys.modules else "early", file=sys.stderr)
"""
SETTLED = 10**12
"""Nanoseconds by which a process begins later, so that files written just now are old to it."""


class Place:
    """A working directory with a recipe, its base and its completed run."""

    def __init__(self, path: Path) -> None:
        self.path = path / "work"
        self.path.mkdir()
        self.cache = path / "cache"
        self.packages = path / "packages"
        self.root = path / "runs"
        self.recipe = self.path / "mine.toml"
        self.variables = {"FORGE_CACHE": str(self.cache), "TZ": "UTC"}
        (self.path / "base.toml").write_text('extends = "wikitext_tiny"\ntrain.max_steps = 40\n')
        self.recipe.write_text(f'extends = "base.toml"\nrun.root = "{self.root}"\n')
        plan = make_plan(load_recipe(self.recipe))
        self.run_id = plan.run_id
        self.completion = Completion(
            run_id=plan.run_id,
            attempt=1,
            identity=plan.identity.hash,
            state="completed",
            reason="all 40 steps taken",
            steps=40,
            final_loss=3.5,
            best_loss=3.4,
            best_step=30,
            started=1.7e9,
            ended=1.7e9 + 240,
            directory=str(plan.directory.path),
            next_command=f"forge generate {plan.run_id}",
        )
        write_completion(self.root, self.completion)

    def train(self, *more: str, settled: int = SETTLED) -> tuple[str, int, str]:
        """Return what the command prints, its exit code, and which way it went."""
        done = subprocess.run(
            [sys.executable, "-c", RUN.format(settled=settled), "train", "mine.toml", *more],
            cwd=self.path,
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        *errors, way = done.stderr.splitlines()
        return done.stdout + "\n".join(errors), done.returncode, way

    def notes(self) -> list[Path]:
        return list((self.cache / "finished").glob("*.json"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("FORGE_RUN_ROOT", raising=False)
    return Place(tmp_path)


def test_the_second_skip_says_the_same_and_resolves_nothing(place: Place) -> None:
    whole, early = place.train(), place.train()
    assert (whole[2], early[2]) == ("whole", "early")
    assert whole[:2] == early[:2]
    assert whole[0].splitlines() == [
        f"{place.run_id}: already completed on 2023-11-14 22:17 "
        "(all 40 steps taken, best validation loss 3.4000)",
        f"  use it:         forge generate {place.run_id}",
        f"  train it again: forge runs clear {place.run_id} --root {place.root}",
    ]
    assert whole[1] == 0


def test_a_run_that_was_just_trained_has_a_note(place: Place) -> None:
    more = ("--set", "train.max_steps=2", "--set", "train.device=cpu", "--quiet")
    assert place.train(*more)[1:] == (0, "whole")
    said, code, way = place.train(*more)
    assert (code, way) == (0, "early")
    assert "already completed" in said
    assert place.train(*more, "--resume", "last")[2] == "whole"


def test_each_command_has_a_note_of_its_own(place: Place) -> None:
    place.train()
    said, code, way = place.train("--set", "train.max_steps=41", "--dry-run")
    assert (code, way) == (0, "whole")
    assert "ready to train" in said
    assert place.train("--name", "other")[2] == "whole"
    assert place.train("--name", "other")[2] == "early"
    assert len(place.notes()) == 2


def _edit_recipe(place: Place) -> None:
    place.recipe.write_text(place.recipe.read_text() + "train.max_steps = 41\n")


def _edit_base(place: Place) -> None:
    kept = (place.path / "base.toml").stat()
    (place.path / "base.toml").write_text('extends = "wikitext_tiny"\ntrain.max_steps = 41\n')
    os.utime(place.path / "base.toml", ns=(kept.st_atime_ns, kept.st_mtime_ns))


def _put_a_base_before_the_shipped_one(place: Place) -> None:
    (place.path / "wikitext_tiny").write_text("extends = 'wikitext_tiny.toml'\nrun.seed = 7\n")


def _clear(place: Place) -> None:
    (place.root / place.run_id).mkdir()
    clear_run(place.root, place.run_id)


@pytest.mark.parametrize(
    "change", [_edit_recipe, _edit_base, _put_a_base_before_the_shipped_one, _clear]
)
def test_a_run_that_is_another_or_not_done_is_not_skipped(
    place: Place, change: Callable[[Place], None]
) -> None:
    assert place.train("--dry-run")[2] == "whole"
    assert place.train("--dry-run")[2] == "early"
    change(place)
    said, code, way = place.train("--dry-run")
    assert way == "whole"
    assert "already completed" not in said, said
    assert "ready to train" in said or code == 2


def test_a_completion_of_another_recipe_or_a_damaged_one_is_an_error(place: Place) -> None:
    place.train()
    path = completion_path(place.root, place.run_id)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"identity": "0" * 64}))
    said, code, way = place.train()
    assert (code, way) == (1, "whole")
    assert "another recipe" in said or "completed" in said
    del body["steps"]
    path.write_text(json.dumps(body))
    said, code, way = place.train()
    assert (code, way) == (1, "whole")
    assert "is damaged" in said


def _set_a_variable(place: Place) -> None:
    place.variables["FORGE_OFFLINE"] = "1"


def _write_settings(place: Place) -> None:
    (place.path / ".env").write_text("FORGE_OFFLINE=1\n")


def _install_a_package(place: Place) -> None:
    info = place.packages / "greet-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmforge.trackers]\ngreet = greet:Greet\n")


def _edit_metadata(place: Place) -> None:
    info = place.packages / "old-1.0.dist-info"
    (info / "entry_points.txt").write_text("[llmforge.trackers]\nold = old:Old\n")


def _edit_a_module(place: Place) -> None:
    (place.packages / "sitecustomize.py").write_text("import json\n")


@pytest.mark.parametrize(
    "change",
    [_set_a_variable, _write_settings, _install_a_package, _edit_metadata, _edit_a_module],
)
def test_what_may_change_the_recipe_s_meaning_is_looked_at_anew(
    place: Place, change: Callable[[Place], None]
) -> None:
    packages = place.packages
    (packages / "old-1.0.dist-info").mkdir(parents=True)
    (packages / "old-1.0.dist-info" / "METADATA").write_text("Name: old\nVersion: 1.0\n")
    (packages / "sitecustomize.py").write_text("")
    place.variables["PYTHONPATH"] = str(packages)
    assert place.train()[2] == "whole"
    assert place.train()[2] == "early"
    change(place)
    said, code, way = place.train()
    assert (code, way) == (0, "whole")
    assert "already completed" in said


def test_settings_are_no_hindrance_unless_something_is_said_of_them(place: Place) -> None:
    settings = place.path / ".env"
    settings.write_text("# keys\nexport FORGE_OFFLINE=1\nWANDB_API_KEY='a b'  # mine\n\nX=\n")
    assert [place.train()[2] for _ in range(2)] == ["whole", "early"]
    settings.write_text("FORGE_OFFLINE=1\nno setting\n")
    assert [place.train()[2] for _ in range(2)] == ["whole", "whole"]
    settings.write_text(f"FORGE_CACHE={place.path}\n")
    assert [place.train()[2] for _ in range(2)] == ["whole", "whole"]


def test_files_that_changed_just_now_are_no_base_of_a_note(place: Place) -> None:
    place.train(settled=0)
    assert not place.notes()


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"format": 0}', "\x00"])
def test_a_damaged_note_is_no_note(place: Place, damage: str) -> None:
    place.train()
    (note,) = place.notes()
    note.write_text(damage)
    said, code, way = place.train()
    assert (code, way) == (0, "whole")
    assert "already completed" in said


def test_notes_are_private_and_few(place: Place) -> None:
    folder = place.cache / "finished"
    folder.mkdir(parents=True)
    for number in range(80):
        (folder / f"{number}.json").write_text("{}")
        os.utime(folder / f"{number}.json", (time.time() - 9999, time.time() - 9999))
    place.train()
    assert len(place.notes()) == 64
    assert place.train()[2] == "early"
    newest = max(place.notes(), key=lambda note: note.stat().st_mtime)
    assert newest.stat().st_mode & 0o077 == 0


def test_export_at_the_end_is_named_until_it_is_there(place: Place) -> None:
    text = place.recipe.read_text() + "export.at_end = true\n"
    place.recipe.write_text(text)
    assert "export it:" in place.train()[0]
    said, _, way = place.train()
    assert way == "early"
    assert f"export it:      forge export {place.run_id} --to " in said
    make_plan(load_recipe(place.recipe)).directory.export.mkdir(parents=True)
    said, _, way = place.train()
    assert way == "early"
    assert "export it:" not in said


def test_in_a_folder_that_is_gone_there_is_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert finished_run(["train", "wikitext_tiny"]) == ""


def test_a_run_in_storage_is_never_skipped_from_a_note(place: Place) -> None:
    place.train("--set", "storage.url=file:///nowhere")
    assert not place.notes()
