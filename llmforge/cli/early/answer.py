"""Answers that need neither typer nor rich: version, help, completion, and that a run is done.

Looked for before anything else is imported. Whatever is not plain goes the usual way, which answers
everything; so does what cannot be written.
"""

from __future__ import annotations

import os
import sys

from llmforge import __version__


def answered() -> int | None:
    """Answer the command line if that is possible here; return the exit code, else None."""
    if os.name != "posix" or sys.stdout is None:
        return None
    found = _answer(sys.argv[1:])
    if found is None:
        return None
    text, code = found
    try:
        data = text.encode(sys.stdout.encoding, "replace")
        if "train" in sys.argv and not _is_taken():
            return None
        while data:
            data = data[os.write(1, data) :]
    except (OSError, LookupError):
        return None
    return code


def _answer(arguments: list[str]) -> tuple[str, int] | None:
    program = _program()
    if os.environ.get(f"_{program}_COMPLETE".replace("-", "_").upper()):
        return _completion() if program == "forge" else None
    if arguments == ["--version"]:
        return f"llmforge {__version__}\n", 0
    if arguments in (["--help"], ["-h"]):
        return _help(program)
    from llmforge.cli.early.finished import finished_run

    said = finished_run(arguments)
    return (said, 0) if said else None


def _is_taken() -> bool:
    """Return whether a line can be written without waiting for a reader, as training must not."""
    import select

    return bool(select.select([], [1], [], 0)[1])


def _completion() -> tuple[str, int] | None:
    from llmforge.cli.early.commands import COMMANDS
    from llmforge.cli.early.completion import completion
    from llmforge.cli.early.plugin_commands import plugin_commands

    return completion(COMMANDS, plugin_commands)


def _help(program: str) -> tuple[str, int] | None:
    from llmforge.cli.early.commands import COMMANDS
    from llmforge.cli.early.help_page import help_page
    from llmforge.cli.early.plugin_commands import plugin_commands

    others = plugin_commands()
    page = "" if others is None else help_page(COMMANDS, others, program=program)
    return (page, 0) if page else None


def _program() -> str:
    """Return what the user calls the program, as typer says it."""
    package = getattr(sys.modules["__main__"], "__package__", None)
    name = os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib is slow to import
    if not package:
        return name
    module = name.removesuffix(".py")
    return f"python -m {package}" if module == "__main__" else f"python -m {package}.{module}"
