"""A group of commands each of which is imported when it is used, or when the help lists it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperGroup


def lazy_group(targets: Mapping[str, str], *, help: str) -> typer.Typer:
    """Return a group of the functions that ``targets`` names as ``module:function``."""

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            del ctx
            return list(targets)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            del ctx
            return _command(cmd_name, targets[cmd_name]) if cmd_name in targets else None

    app = typer.Typer(cls=Group, help=help, no_args_is_help=True)
    app.callback()(_nothing)
    return app


def _command(name: str, target: str) -> Any:
    module, _, function = target.partition(":")
    holder = typer.Typer(add_completion=False, rich_markup_mode="rich")
    holder.command(name)(getattr(import_module(module), function))
    holder.callback()(_nothing)
    return cast("Any", typer.main.get_command(holder)).commands[name]


def _nothing() -> None:
    """Make a group of an app with one command."""
