"""What commands that answer over HTTP share: where they listen, and who may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.errors import UsageError

LISTENING = "Listening"

Host = Annotated[
    str, typer.Option("--host", help="Address to listen at.", rich_help_panel=LISTENING)
]
Port = Annotated[
    int,
    typer.Option(
        "--port", min=0, max=65535, help="0 takes any that is free.", rich_help_panel=LISTENING
    ),
]
AllowHosts = Annotated[
    list[str] | None,
    options.option(
        "--allow-host",
        metavar="NAME",
        help="A further name that clients may call this server by. Repeatable.",
        panel=LISTENING,
    ),
]


def require_packages(command: str, packages: Sequence[str]) -> None:
    """Check that the packages of a command are installed.

    Raises:
        UsageError: some are not.
    """
    from llmforge.component import importable
    from llmforge.installed import install_command

    if missing := [name for name in packages if not importable(name)]:
        raise UsageError(
            f"{command} needs packages that are not installed: {', '.join(missing)}",
            remedy=install_command(*missing),
        )


def key_from_environment(variable: str | None, host: str, *, option: str) -> str | None:
    """Return the key that clients have to bring; None for none.

    Args:
        variable: which environment variable has it, as given by ``option``.
        host: where the server listens.
        option: the flag that names the variable.

    Raises:
        UsageError: the variable is empty, or the server needs a key and has none.
    """
    from llmforge.serve.guard import is_loopback
    from llmforge.settings import credential

    if variable is not None:
        key = credential(variable)
        if key is None or not key.isascii() or key.strip() != key:
            raise UsageError(
                f"the environment variable {variable} of {option} has no usable key",
                remedy=f"set it, for example: export {variable}=$(openssl rand -hex 24)",
            )
        return key
    if not is_loopback(host):
        raise UsageError(
            f"--host {host} lets others reach this server, and it asks for no key",
            remedy=f"name an environment variable that has one: {option} FORGE_API_KEY",
        )
    return None
