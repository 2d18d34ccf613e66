"""The table of commands: what ``forge --help`` and completion say before anything is imported."""

from __future__ import annotations

from pprint import pformat
from typing import Any

import typer
from rich.text import Text

from llmforge.cli.app import OWN, PLUGINS_PANEL, app

HEAD = '''"""The table of commands; written by ``docs/write_reference.py``."""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing is slow to import
if TYPE_CHECKING:
    from typing import Any

COMMANDS: dict[str, Any] = '''


def commands_table() -> str:
    """Return the table as a module of Python, which is read faster than JSON."""
    root = typer.main.get_command(app)
    context = root.make_context("forge", [], resilient_parsing=True)
    table = _described(root, context)
    for name, command in table["commands"].items():
        command |= {"panel": OWN[name].panel, "help": OWN[name].help}
    for described, option in zip(table["options"], root.get_params(context), strict=True):
        described["type"] = option.display_type_rich(ctx=context)
    table |= {
        "usage": " ".join(root.collect_usage_pieces(context)),
        "help": root.help,
        "epilog": root.epilog,
        "plugins": PLUGINS_PANEL,
    }
    return f"{HEAD}{pformat(table, width=100, sort_dicts=False)}\n"


def _described(command: Any, context: Any) -> dict[str, Any]:
    parameters = [item for item in command.get_params(context) if not getattr(item, "hidden", 0)]
    options = [item for item in parameters if item.param_type_name == "option"]
    arguments = [item for item in parameters if item.param_type_name == "argument"]
    found: dict[str, Any] = {
        "about": _plain(command.get_short_help_str()),
        "options": [_option(item, context) for item in options],
        "arguments": [
            {"many": item.nargs == -1, "words": _words(item, context)} for item in arguments
        ],
    }
    if hasattr(command, "list_commands"):
        inner = {
            name: command.get_command(context, name) for name in command.list_commands(context)
        }
        found["commands"] = {
            name: _described(item, type(context)(item, info_name=name, parent=context))
            for name, item in inner.items()
            if (context.parent is not None or name in OWN) and not item.hidden
        }
    return found


def _option(option: Any, context: Any) -> dict[str, Any]:
    names = [*option.opts, *option.secondary_opts]
    if option.name == "help":  # in no order of its own
        names.sort(key=len, reverse=True)
    found = {
        "names": names,
        "help": _plain(option.help or ""),
        "value": not (option.is_flag or option.count),
        "many": option.multiple,
        "words": _words(option, context),
    }
    return {key: value for key, value in found.items() if value}


def _words(parameter: Any, context: Any) -> list[str]:
    return [item.value for item in parameter.shell_complete(context, "")]


def _plain(text: str) -> str:
    """Return a help as completion shows it: one line without markup."""
    return " ".join(Text.from_markup(text).plain.split())
