"""What a shell offers after a part of a command line, from the table of commands alone.

The rules are those of typer, which answers itself where they get involved: quotes, options joined
with their value or with each other, and commands of plugins. A test holds the answers against its.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Offer = tuple[str, str]

VARIABLE = "_FORGE_COMPLETE"
"""Set by the shell's completion script of a program that is called ``forge``."""

_QUOTES = "\"'\\"


def completion(
    commands: Mapping[str, Any], others: Callable[[], Mapping[str, str] | None]
) -> tuple[str, int] | None:
    """Return what to print for the shell and the exit code; None where typer is needed.

    Args:
        commands: the root command as the table of commands has it.
        others: returns the commands of plugins by name, or None.
    """
    shell = os.environ[VARIABLE].removeprefix("complete_")
    words = _words(shell)
    if words is None:
        return None
    *before, incomplete = words
    offers = _offers(commands, before, incomplete, others, names_only=shell == "bash")
    return None if offers is None else _printed(shell, offers)


def _words(shell: str) -> list[str] | None:
    """Return the words after the program's name, the last one incomplete."""
    if shell == "bash":
        line = os.environ.get("COMP_WORDS", "")
        place = os.environ.get("COMP_CWORD", "")
        if not place.isdigit() or int(place) < 1:
            return None
        words = line.split()[: int(place) + 1]
        words += [""] * (int(place) + 1 - len(words))
    elif shell in ("zsh", "fish"):
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()
        if len(words) < 2 or line.endswith(" "):
            words.append("")
    else:
        return None
    return None if any(quote in line for quote in _QUOTES) or not words[1:] else words[1:]


def _offers(
    command: Mapping[str, Any],
    before: Sequence[str],
    incomplete: str,
    others: Callable[[], Mapping[str, str] | None],
    *,
    names_only: bool,
) -> list[Offer] | None:
    """Return names and helps of what may come next."""
    root = command
    given: set[str] = set()
    filled = 0
    rest = list(before)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            option = _option(command, word)
            if option is None or (command is root and word not in _SWITCHES):
                return None
            given.add(option["names"][0])
            if option.get("value"):
                if not rest:
                    return _values(option, incomplete)
                if rest.pop(0).startswith("-"):
                    return None
        elif "commands" in command:
            if word not in command["commands"]:
                return None
            command, given, filled = command["commands"][word], set(), 0
        else:
            filled += 1
    if incomplete.startswith("-"):
        return None if "=" in incomplete else _options(command, given, incomplete)
    if "commands" in command:
        found = [(name, item["about"]) for name, item in command["commands"].items()]
        if command is root:
            plugins = others()
            if plugins is None or (plugins and not names_only):
                return None
            found += [(name, "") for name in sorted(plugins) if name not in command["commands"]]
        found = [offer for offer in found if offer[0].startswith(incomplete)]
        if incomplete and not incomplete[0].isalnum():
            found += _options(command, given, incomplete)
        return found
    for argument in command["arguments"]:
        if argument["many"] or filled < 1:
            return _values(argument, incomplete)
        filled -= 1
    if incomplete and not incomplete[0].isalnum():
        return _options(command, given, incomplete)
    return []


_SWITCHES = frozenset({"-v", "--verbose", "-q", "--quiet", "--debug"})
"""Options of the root that may stand before a command."""


def _option(command: Mapping[str, Any], word: str) -> Any:
    return next((option for option in command["options"] if word in option["names"]), None)


def _options(command: Mapping[str, Any], given: set[str], incomplete: str) -> list[Offer]:
    return [
        (name, option.get("help", ""))
        for option in command["options"]
        if option.get("many") or option["names"][0] not in given
        for name in option["names"]
        if name.startswith(incomplete)
    ]


def _values(parameter: Mapping[str, Any], incomplete: str) -> list[Offer]:
    return [(word, "") for word in parameter.get("words", ()) if word.startswith(incomplete)]


def _printed(shell: str, offers: Sequence[Offer]) -> tuple[str, int] | None:
    """Return what the completion script of a shell reads."""
    if shell == "bash":
        return "\n".join(name for name, _ in offers) + "\n", 0
    if shell == "zsh":
        quoted = [
            f'"{_escaped(name)}":"{_escaped(about)}"' if about else f'"{_escaped(name)}"'
            for name, about in offers
        ]
        joined = "\n".join(quoted)
        return (f"_arguments '*: :(({joined}))'" if quoted else "_files") + "\n", 0
    action = os.environ.get("_TYPER_COMPLETE_FISH_ACTION")
    if action == "is-args":
        return "", 0 if offers else 1
    if action == "get-args" and offers:
        lines = [f"{name}\t{about}" if about else name for name, about in offers]
        return "\n".join(lines) + "\n", 0
    return "\n", 0


def _escaped(text: str) -> str:
    text = text.replace('"', '""').replace("'", "''").replace("$", "\\$")
    return text.replace("`", "\\`").replace(":", "\\\\:")
