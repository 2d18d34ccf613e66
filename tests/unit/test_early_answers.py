"""Answers before typer and rich are imported: what they say is what typer says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, MetadataPathFinder
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.completion import shell_complete

from llmforge.cli.app import app
from llmforge.cli.early import answer, plugin_commands
from llmforge.cli.early.commands import COMMANDS
from llmforge.cli.early.completion import completion
from llmforge.cli.early.help_page import help_page
from llmforge.installed import commands, refresh

RUN = "import sys; sys.argv[0] = 'forge'; from llmforge.__main__ import main; main()"


def forge(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(autouse=True)
def as_a_new_process_finds_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what an earlier test imported: ``importlib_metadata`` takes the finder's place."""
    finders = [
        finder
        for finder in sys.meta_path
        if finder is PathFinder or not hasattr(finder, "find_distributions")
    ]
    monkeypatch.setattr(sys, "meta_path", finders)
    own = staticmethod(MetadataPathFinder.find_distributions)
    monkeypatch.setattr(PathFinder, "find_distributions", own, raising=False)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to install packages in, after those that are installed."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    refresh()
    yield tmp_path
    refresh()


def install(place: Path, name: str, entry_points: str, *, folder: str = "") -> None:
    info = place / f"{folder or name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\nText\n")
    (info / "entry_points.txt").write_text(entry_points)


# Help and version ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 66, 80, 100, 120, 127, 200])
def test_the_help_is_that_of_typer_at_every_width(width: int) -> None:
    early = forge("--help", COLUMNS=str(width))
    whole = forge("--help", COLUMNS=str(width), TYPER_USE_RICH="1")
    assert early.stdout == whole.stdout
    assert (early.returncode, early.stderr) == (0, "")


def test_the_help_has_the_colours_of_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(type(sys.stdout), "encoding", "utf-8", raising=False)
    page = help_page(COMMANDS, {}, program="forge")
    whole = forge("--help", COLUMNS="100", FORCE_COLOR="1", TERM="xterm").stdout
    assert "\x1b[1;36m" in page
    assert _cells(page) == _cells(whole)


def _cells(text: str) -> list[tuple[str, str]]:
    """Return every character with its style; a space has none that is seen."""
    found, style = [], ""
    for code, character in re.findall(r"\x1b\[([\d;]*)m|([^\x1b])", text):
        if character:
            found.append((character, style if character.strip() else ""))
        else:
            style = "" if code == "0" else code
    return found


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"]], ids=lambda item: str(item[0])
)
def test_an_early_answer_imports_next_to_nothing(arguments: list[str]) -> None:
    code = (
        "import sys, os\n"
        "before = set(sys.modules)\n"
        f"sys.argv = ['forge', *{arguments!r}]\n"
        "from llmforge.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "more = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert more <= {'llmforge', 'importlib', 'warnings', '__future__'}, more\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_goes_to_a_full_disk_and_to_a_reader_that_is_gone_as_ever() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmforge", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "standard output cannot be written" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_while_an_answer_is_looked_for_stops_the_training_as_ever() -> None:
    code = (
        "import os, signal, sys\n"
        "from llmforge.cli.early import answer\n"
        "answer.answered = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['forge', 'train', 'wikitext_tiny', '--dry-run']\n"
        "from llmforge.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stderr == "forge: stopped by SIGTERM before anything was started\n"


# Commands of plugins -------------------------------------------------------------------------


def test_commands_of_plugins_are_in_the_help(packages: Path) -> None:
    install(
        packages,
        "forge-greet",
        "[console_scripts]\nother = a:b\n\n[llmforge.commands]\n# more\ngreet = greeting:app\n"
        "wave=greeting:wave\n\n[x]\nno = a:b\n",
    )
    early = forge("--help", PYTHONPATH=str(packages), COLUMNS="100")
    whole = forge("--help", PYTHONPATH=str(packages), COLUMNS="100", TYPER_USE_RICH="1")
    assert early.stdout == whole.stdout
    assert re.search(r"│ greet +From forge-greet\.", early.stdout)
    names = plugin_commands.plugin_commands()
    assert names == _known(commands()) == {"greet": "forge-greet", "wave": "forge-greet"}


def _known(points: Mapping[str, EntryPoint]) -> dict[str, str]:
    return {name: point.dist.name for name, point in points.items() if point.dist}


def test_of_a_package_that_is_installed_twice_the_first_counts(packages: Path) -> None:
    install(packages / "later", "forge-greet", "[llmforge.commands]\nold = a:b\n")
    install(packages, "Forge.Greet", "[llmforge.commands]\nnew = a:b\n", folder="Forge.Greet")
    sys.path.append(str(packages / "later"))
    assert plugin_commands.plugin_commands() == _known(commands()) == {"new": "Forge.Greet"}


def test_a_package_of_an_older_form_counts_too(packages: Path) -> None:
    install(packages, "forge-greet", "[llmforge.commands]\ngreet = a:b\n")
    info = (packages / "forge_greet-1.0.dist-info").rename(packages / "forge_greet.egg-info")
    (info / "METADATA").rename(info / "PKG-INFO")
    assert plugin_commands.plugin_commands() == _known(commands()) == {"greet": "forge-greet"}
    (info / "PKG-INFO").unlink()
    assert plugin_commands.plugin_commands() is None


def test_two_packages_with_one_command_are_an_error_as_ever(packages: Path) -> None:
    install(packages, "one", "[llmforge.commands]\ngreet = one:app\n")
    install(packages, "two", "[llmforge.commands]\ngreet = two:app\n")
    assert plugin_commands.plugin_commands() is None
    done = forge("--help", PYTHONPATH=str(packages))
    assert "two commands are named 'greet'" in done.stderr
    assert "train" in done.stdout


def test_a_choice_of_packages_holds_for_the_help(packages: Path) -> None:
    install(packages, "one", "[llmforge.commands]\ngreet = one:app\n")
    assert "greet" not in forge("--help", PYTHONPATH=str(packages), FORGE_PLUGINS="").stdout
    assert "greet" in forge("--help", PYTHONPATH=str(packages), FORGE_PLUGINS="one").stdout


# Completion ----------------------------------------------------------------------------------


def _places(command: Mapping[str, Any], path: str = "") -> Iterator[str]:
    yield path
    for name, inner in command.get("commands", {}).items():
        yield from _places(inner, f"{path} {name}".strip())


def typers(capsys: pytest.CaptureFixture[str], shell: str) -> tuple[str, int]:
    """Return what typer prints for completion, and its exit code."""
    capsys.readouterr()
    root = typer.main.get_command(app)
    try:
        code = shell_complete(root, {}, "forge", "_FORGE_COMPLETE", f"complete_{shell}")
    except SystemExit as end:
        code = int(end.code or 0)
    return re.sub(r' +("?\n)', r"\1", capsys.readouterr().out), code  # what wrapping leaves


LINES = [
    line.replace("  ", " ")
    for place in _places(COMMANDS)
    for line in (f"forge {place} ", f"forge {place} --")
]
MORE = [
    "forge t",
    "forge -v tr",
    "forge --q",
    "forge runs sh",
    "forge runs x",
    "forge train a.toml --max-steps ",
    "forge train --max-steps 3 --m",
    "forge train --set a=1 --se",
    "forge train --set a=1 --set ",
    "forge train a.toml ",
    "forge train a.toml b",
    "forge train -m",
    "forge runs metrics x --per ",
    "forge runs metrics x --per s",
    "forge runs metrics --per step ",
    "forge runs compare a b ",
    "forge runs show x --json --j",
    "forge runs show --root ",
]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("lines", [LINES, MORE], ids=["every command", "others"])
def test_completion_offers_what_typer_does(
    shell: str,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORGE_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "1000")  # typer breaks helps to the width of the terminal
    monkeypatch.setenv("_FORGE_COMPLETE", f"complete_{shell}")
    refresh()
    answered = 0
    for line in lines:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        for action in ("get-args", "is-args") if shell == "fish" else ("",):
            monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", action)
            found = completion(COMMANDS, plugin_commands.plugin_commands)
            assert found is not None, line
            assert found == typers(capsys, shell), line
            answered += 1
    assert answered >= len(lines)


@pytest.mark.parametrize(
    "line", ["forge 'tr", "forge no-such ", "forge train --set=a", "forge train -vq ", "forge"]
)
def test_what_is_not_plain_is_left_to_typer(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FORGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    assert completion(COMMANDS, dict) is None


def test_commands_of_plugins_are_offered(packages: Path) -> None:
    install(packages, "forge-greet", "[llmforge.commands]\ngreet = greeting:app\n")
    (packages / "greeting.py").write_text("def app() -> None:\n    '''Greet.'''\n")
    asked = {"_FORGE_COMPLETE": "complete_bash", "COMP_WORDS": "forge gr", "COMP_CWORD": "1"}
    assert forge(PYTHONPATH=str(packages), **asked).stdout == "greet\n"
    asked = {"_FORGE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "forge gr"}
    assert '"greet":"Greet."' in forge(PYTHONPATH=str(packages), **asked).stdout


def test_another_program_has_another_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/experiments", "--version"])
    monkeypatch.setenv("_EXPERIMENTS_COMPLETE", "complete_bash")
    assert answer.answered() is None
