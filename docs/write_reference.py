"""Writes the reference pages from the code: ``python docs/write_reference.py``.

``--check`` compares. ``reference/cli.md`` comes from the commands' help by typer's own generator,
``reference/recipe.md`` from the option models. A test runs the check, so a page never has an option
that is not there.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from llmforge.component import KINDS
from llmforge.installed import DISTRIBUTION
from llmforge.options import IDENTITY, Options, Scope, scope_of
from llmforge.plugins import entries, load
from llmforge.recipe.schema import CORE_TABLES, DEFAULT_COMPONENTS, KIND_KEYS

HERE = Path(__file__).parent

RECIPES = """# Recipe tables

A recipe is one TOML file. Each kind of part has a table that names the component, and the
component's options have a table of their own:

```toml
[optimizer]
name = "adamw"

[optimizer.adamw]
lr = 1e-3
```

`tracker` and `callback` take several: `names = ["tensorboard"]`. Option tables of components that
are not selected may stay and are checked too, so that switching is one word
(`--set optimizer.name=muon`).

**Layers.** `extends = "base.toml"` (a file beside it, or the name of a shipped recipe) lies
lowest, then the file, then `[profile.NAME]` chosen with `--profile NAME`, then `--set KEY=VALUE`.
Later wins, tables merge, lists replace. `forge recipe show RECIPE` prints the result with where
each value came from; `forge recipe check` finds all problems at once; `forge recipe schema` prints
a JSON Schema for editors.

**Scope.** What a change of a key means for an existing run: *identity* makes another run, *safe*
(logging, names, budgets) and *machine* (where and how it runs) continue the same one.

**Intervals** are numbers of steps, or epochs as text: `"1 epoch"`, `"2 epochs"`, `"0.5 epoch"`.

**Secrets** come from the environment or from `.env` in the working directory, whose lines
`NAME=VALUE` count as if they were set there. They never stand in a recipe, which is kept, tracked
and uploaded: a key that is named like one, a URL with a login or key in it, and a value that is the
environment's own secret are refused. Whatever others write (errors, tracebacks, command lines) has
them replaced by `***` before it is shown, kept or sent.

## Core tables
"""

BUILT_IN = """
## Components

`forge plugins list` shows what is installed, `forge plugins show KIND NAME` the same as here for
any component, third-party ones included.
"""


def recipes_page() -> str:
    """Return the recipe reference."""
    parts = [RECIPES]
    for name, model in {**CORE_TABLES, **KIND_KEYS}.items():
        parts.append(f"\n### `[{name}]`\n\n{_first(model)}\n\n{_options(model)}")
        parts += [
            f"\n### `[{name}.{key}]`\n\n{_first(inner)}\n\n{_options(inner)}"
            for key, inner in _tables(model)
        ]
    parts.append(BUILT_IN)
    for kind in KINDS:
        own = [item for item in entries(kind).values() if item.distribution == DISTRIBUTION]
        for entry in sorted(own, key=lambda item: item.name):
            component = load(kind, entry.name)
            default = " (the default)" if DEFAULT_COMPONENTS.get(kind) == entry.name else ""
            parts.append(
                f"\n### `[{kind}.{entry.name}]`{default}\n\n{_first(component)}\n\n"
                f"{_options(component.Options, KINDS[kind].scope)}"
            )
    return "".join(parts)


def cli_page() -> str:
    """Return the command-line reference."""
    import typer
    from typer.cli import get_docs_for_click

    from llmforge.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("forge", [], resilient_parsing=True)
    base = next(item for item in type(command).mro() if "get_short_help_str" in vars(item))
    with patch.object(base, "get_short_help_str", _summary):
        text = get_docs_for_click(obj=command, ctx=context, name="forge", title="Command line")
    text = re.sub(r"</?span[^>]*>", "", text)
    return text.strip() + "\n"


def _summary(command: Any) -> str:
    """Return a command's first paragraph; in a list on a terminal it would be cut to fit."""
    return _inline((command.help or "").split("\n\n")[0])


def _first(item: Any) -> str:
    return _inline((item.__doc__ or "").strip().split("\n\n")[0])


def _inline(text: str | None) -> str:
    """Return text on one line, code marked the Markdown way."""
    return " ".join((text or "").replace("``", "`").split())


def _options(model: type[Options], scope: Scope = IDENTITY) -> str:
    rows = list(_rows(model, scope))
    if not rows:
        return "No options.\n"
    head = "| key | type | default | scope | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(model: type[Options], scope: Scope) -> Iterator[tuple[str, str, str, str, str]]:
    for name, field in model.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else _value(field.get_default(call_default_factory=True))
        )
        meaning = _inline(field.description)
        yield f"`{name}`", _type(field.annotation), default, scope_of(field, scope).name, meaning


def _tables(model: type[Options]) -> Iterator[tuple[str, type[Options]]]:
    """Yield the tables inside a table that has components of no kind."""
    for name, field in model.model_fields.items():
        for member in typing.get_args(field.annotation):
            if isinstance(member, type) and issubclass(member, Options):
                yield name, member


def _value(value: object) -> str:
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"`{text}`"


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return ", ".join(f"`{item}`" for item in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        members = [item for item in typing.get_args(annotation) if item is not type(None)]
        return " or ".join(_type(item) for item in members)
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return "table"
    if origin is list:
        return f"list of {_type(typing.get_args(annotation)[0])}"
    return getattr(annotation, "__name__", str(annotation))


def commands_table() -> str:
    """Return the table of commands that help and completion are answered from."""
    from commands_table import commands_table

    return commands_table()


PAGES = {
    "reference/recipe.md": recipes_page,
    "reference/cli.md": cli_page,
    "../llmforge/cli/early/commands.py": commands_table,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are out of date."""
    stale = []
    for name, page in PAGES.items():
        text, path = page(), HERE / name
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python docs/write_reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
