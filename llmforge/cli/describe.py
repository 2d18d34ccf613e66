"""What ``forge plugins show`` tells about a component."""

from __future__ import annotations

import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

from llmforge import hookspecs
from llmforge.component import KINDS, Component, importable
from llmforge.installed import install_command
from llmforge.options import scope_of
from llmforge.plugins import entries, load

_WIDTH = 100
_PLAIN = (bool, int, float, str, list, dict, type(None))
_SCOPES = (
    "Scopes: another value of an identity option makes another run; with another value of a safe "
    "or machine option the run continues."
)


def describe(kind: str, name: str) -> dict[str, Any]:
    """Return everything there is to say about a component, as plain values.

    Raises:
        PluginError: the component cannot be loaded.
    """
    entry = entries(kind)[name]
    component = load(kind, name)
    options = component.Options.model_fields
    return {
        "kind": kind,
        "name": name,
        "package": entry.distribution,
        "version": entry.version,
        "target": entry.target,
        "documentation": inspect.cleandoc(component.__doc__ or ""),
        "options": [_option(key, field, KINDS[kind].scope) for key, field in options.items()],
        "hooks": [hook for hook in vars(hookspecs) if _implements(component, hook)],
        "requires": {module: importable(module) for module in component.requires},
        "supports": sorted(component.supports),
    }


def text_of(described: Mapping[str, Any]) -> str:
    """Return the description as text."""
    return "".join(f"{line}\n" for line in _lines(described))


def _lines(described: Mapping[str, Any]) -> Iterator[str]:
    package = f"{described['package']} {described['version']}".strip()
    yield f"{described['kind']} '{described['name']}' of {package} ({described['target']})"
    yield ""
    yield described["documentation"]
    table = f"[{described['kind']}.{described['name']}]"
    yield ""
    yield f"Options of {table}" if described["options"] else f"{table} has no options."
    for option in described["options"]:
        yield from _option_lines(option)
    if described["options"]:
        yield ""
        yield from _wrapped("", _SCOPES)
    yield ""
    yield from _wrapped("Hooks: ", ", ".join(described["hooks"]) or "none")
    if described["supports"]:
        yield from _wrapped("Supports: ", ", ".join(described["supports"]))
    for module, installed in described["requires"].items():
        state = "installed" if installed else f"missing: {install_command(module)}"
        yield f"Requires: {module} ({state})"


def _option_lines(option: Mapping[str, Any]) -> Iterator[str]:
    if option["required"]:
        value = "required"
    elif option["default"] is None:
        value = "absent by default"
    else:
        value = f"= {json.dumps(option['default'])}"
    yield ""
    yield f"  {option['name']}  {option['type']}  {value}  ({option['scope']})"
    yield from _wrapped("      ", option["documentation"] or "")


def _wrapped(head: str, text: str) -> list[str]:
    indent = "  " if head.strip() else head
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=indent)


def _option(name: str, field: FieldInfo, scope: Any) -> dict[str, Any]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "name": name,
        "type": type_text(field.annotation),
        "required": field.is_required(),
        "default": default if isinstance(default, _PLAIN) else str(default),
        "scope": scope_of(field, scope).name,
        "documentation": field.description,
    }


def _implements(component: type[Component], hook: str) -> bool:
    return hook.startswith(hookspecs.HOOK_PREFIX) and hasattr(component, hook)


def type_text(annotation: Any) -> str:
    """Return an option's type as a reader of recipes understands it.

    >>> type_text(int | None)
    'int'
    >>> type_text(Literal["a", "b"] | list[str])
    '"a" | "b" | list of str'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in arguments)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(item) for item in arguments if item is not types.NoneType)
    if origin in (list, tuple, set):
        return f"list of {type_text(arguments[0])}"
    if origin is not None:
        return "table"
    return getattr(annotation, "__name__", str(annotation))
