"""``forge plugins list``, ``show`` and ``new``."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from llmforge import plugins
from llmforge.cli import scaffold
from llmforge.cli.describe import type_text
from llmforge.cli.plugins import app
from llmforge.cli.scaffold import TEMPLATED, write_package
from llmforge.component import KINDS
from llmforge.errors import UsageError


def invoke(*arguments: str) -> str:
    """Run a command; return what it printed, or raise what it raised."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two packages that list a tracker 'acme', whose module does not exist."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    for name in ("one", "two"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llmforge.trackers]\nacme = {name}_gone:Acme\n")
    plugins.refresh()
    yield
    monkeypatch.undo()
    plugins.refresh()


# list


def test_the_list_has_kind_name_package_and_target() -> None:
    lines = [line.split() for line in invoke("list", "--kind", "schedule").splitlines()]
    assert lines[0] == ["kind", "name", "package", "target"]
    (cosine,) = [line for line in lines if line[1] == "cosine"]
    assert cosine[0] == "schedule"
    assert cosine[2] == "llmforge-train"
    assert cosine[-1] == "llmforge_plugins.schedules.warmup:Cosine"


def test_the_list_as_json_has_the_same() -> None:
    (sampler,) = json.loads(invoke("list", "--kind", "generation", "--json"))
    assert sampler["name"] == "sampler"
    assert set(sampler) == {"kind", "name", "target", "distribution", "version"}


def test_the_list_imports_no_component(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llmforge_plugins")]:
        monkeypatch.delitem(sys.modules, name)
    invoke("list")
    assert not [name for name in sys.modules if name.startswith("llmforge_plugins")]


@pytest.mark.usefixtures("third_party")
def test_the_list_shows_packages_that_clash_or_are_broken_and_warns() -> None:
    text = invoke("list", "--kind", "tracker")
    assert "one_gone:Acme" in text
    assert "two_gone:Acme" in text
    assert "warning: 2 trackers are named 'acme'" in text


@pytest.mark.usefixtures("third_party")
def test_the_list_says_when_the_environment_restricts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_PLUGINS", "two")
    text = invoke("list", "--kind", "tracker")
    assert "one_gone" not in text
    assert "FORGE_PLUGINS allows only: two" in text
    assert "warning" not in text


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown kind 'traker'\s+did you mean 'tracker'\?"):
        invoke("list", "--kind", "traker")


# show


def test_a_component_is_shown_with_its_options_hooks_and_needs() -> None:
    text = invoke("show", "tracker", "tensorboard")
    assert "TensorBoard event files" in text
    assert "forge_run_start, forge_metrics" in text
    assert "Requires: tensorboard (installed)" in text


def test_an_option_is_shown_with_type_default_scope_and_documentation() -> None:
    lines = invoke("show", "generation", "sampler").splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  top_p"))
    assert lines[at] == "  top_p  float  = 1.0  (safe)"
    assert "hold this much probability" in lines[at + 1]


def test_a_component_as_json_has_plain_values() -> None:
    shown = json.loads(invoke("show", "optimizer", "adamw", "--json"))
    rate = next(option for option in shown["options"] if option["name"] == "lr")
    assert (rate["type"], rate["scope"], rate["required"]) == ("float", "identity", False)
    assert isinstance(rate["default"], float)


_PLAIN_TRACKER = '''
from llmforge import Component, Options

class Mine(Component, kind="tracker"):
    """Of a test."""

    class Options(Options):
        colour: str
        """What it looks like."""
'''


def test_an_option_without_scope_has_that_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmforge.trackers]\nmine = plain_tracker:Mine\n")
    (tmp_path / "plain_tracker.py").write_text(_PLAIN_TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.refresh()
    lines = invoke("show", "tracker", "mine").splitlines()
    assert "  colour  str  required  (safe)" in lines
    monkeypatch.undo()
    plugins.refresh()


def test_an_unknown_component_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown schedule 'cosin'\s+did you mean 'cosine'\?"):
        invoke("show", "schedule", "cosin")


def test_a_command_explains_itself() -> None:
    with pytest.raises(UsageError, match="forge acme --help"):
        invoke("show", "command", "acme")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (int | None, "int"),
        (list[str] | str, "list of str | str"),
        (Literal["a", 2, True] | None, '"a" | 2 | True'),
        (dict[str, int], "table"),
    ],
)
def test_types_are_shown_as_a_reader_of_recipes_knows_them(annotation: object, text: str) -> None:
    assert type_text(annotation) == text


# new


def test_every_kind_has_a_template() -> None:
    templates = Path(scaffold.__file__).with_name("templates")
    folders = {path.name for path in templates.iterdir()}
    assert folders - {"package"} == {*KINDS, "command"} == set(TEMPLATED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_tests_the_contract_of_its_kind(kind: str) -> None:
    test = Path(scaffold.__file__).with_name("templates") / kind / "test.py.tmpl"
    assert re.search(r"^class Test\$class_name\((\w+Contract)\):", test.read_text(), re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_lists_its_component_under_its_kind(kind: str, tmp_path: Path) -> None:
    invoke("new", "my-thing", "--kind", kind, "--dir", str(tmp_path))
    root = tmp_path / "llmforge-my-thing"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["name"] == "llmforge-my-thing"
    points = project["entry-points"]
    target = f"llmforge_my_thing.{kind}:MyThing{kind.capitalize()}"
    assert points == {KINDS[kind].group: {"my-thing": target}}
    module, _, name = target.partition(":")
    source = (root / "src" / Path(*module.split("."))).with_suffix(".py").read_text()
    assert f"class {name}(Component, kind={kind!r})".replace("'", '"') in source


@pytest.mark.parametrize("kind", TEMPLATED)
def test_nothing_of_a_template_is_left_unfilled(kind: str, tmp_path: Path) -> None:
    for path in write_package("thing", kind=kind, parent=tmp_path, command=True):
        assert "$" not in path.read_text(encoding="utf-8"), path
        assert path.suffix != ".tmpl"


def test_a_package_may_be_only_a_command(tmp_path: Path) -> None:
    invoke("new", "thing", "--kind", "command", "--dir", str(tmp_path))
    root = tmp_path / "llmforge-thing"
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"llmforge.commands": {"thing": "llmforge_thing.command:main"}}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {
        "pyproject.toml",
        "README.md",
        "src/llmforge_thing/__init__.py",
        "src/llmforge_thing/command.py",
        "tests/test_command.py",
    }


def test_a_command_is_added_when_asked_for(tmp_path: Path) -> None:
    invoke("new", "thing", "--command", "--dir", str(tmp_path))
    root = tmp_path / "llmforge-thing"
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["llmforge.commands"] == {"thing": "llmforge_thing.command:main"}
    assert (root / "src" / "llmforge_thing" / "command.py").exists()


def test_the_prefix_of_the_package_is_not_doubled(tmp_path: Path) -> None:
    invoke("new", "llmforge-thing", "--dir", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["llmforge-thing"]


@pytest.mark.parametrize(
    "name",
    ["Thing", "9thing", "th ing", "th_ing", "-thing", "thing-", "a--b", "../x", "ü", "x" * 41, ""],
)
def test_a_name_that_cannot_be_a_package_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a valid plugin name"):
        write_package(name, kind="tracker", parent=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "llmforge-thing").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        invoke("new", "thing", "--dir", str(tmp_path))
    assert list((tmp_path / "llmforge-thing").iterdir()) == []


@pytest.mark.parametrize(("kind", "hint"), [("trackr", "did you mean 'tracker'"), ("zz", "model")])
def test_a_kind_without_template_is_refused(kind: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no template for a '{kind}'") as caught:
        invoke("new", "thing", "--kind", kind, "--dir", str(tmp_path))
    assert hint in str(caught.value)


def test_a_directory_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        invoke("new", "thing", "--dir", str(tmp_path / "file"))


def test_a_name_that_ends_in_its_kind_does_not_say_it_twice(tmp_path: Path) -> None:
    invoke("new", "my-model", "--kind", "model", "--dir", str(tmp_path))
    source = (tmp_path / "llmforge-my-model/src/llmforge_my_model/model.py").read_text()
    assert "class MyModel(" in source
    assert "ModelModel" not in source
