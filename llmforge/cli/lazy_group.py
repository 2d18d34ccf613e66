"""A group of commands each of which is imported when it is used, or when the help lists it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperGroup

from llmforge.cli.plain_values import take_plain_values


def lazy_group(targets: Mapping[str, str], *, help: str) -> typer.Typer:
    """Return a group of the functions that ``targets`` names as ``module:function``.

    A function may have an attribute ``context_settings``, for the parser.
    """

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            del ctx
            return list(targets)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in targets:
                return None
            return take_plain_values(_command(cmd_name, targets[cmd_name]), ctx)

    app = typer.Typer(cls=Group, help=help, no_args_is_help=True)
    app.callback()(_nothing)
    return app


def _command(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    function = getattr(import_module(module), attribute)
    holder = typer.Typer(add_completion=False, rich_markup_mode="rich")
    holder.command(name, context_settings=getattr(function, "context_settings", None))(function)
    holder.callback()(_nothing)
    return cast("Any", typer.main.get_command(holder)).commands[name]


def _nothing() -> None:
    """Make a group of an app with one command."""
