"""Values of the command line that need no conversion, taken as they are.

Typer converts every argument with pydantic, which is slower to import than all else that most
commands need. Texts, numbers and names that already are what a command declares come out of it as
they went in, so pydantic is left out for them; whatever else there is goes the usual way.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin


def take_plain_values(command: Any, context: Any) -> Any:
    """Let a command, and those of a group, take values without pydantic where these stay.

    Versions of typer that convert in another way are left alone.

    Args:
        command: the command.
        context: its own, or that of the group it is in.

    Returns:
        The command.
    """
    other_help = context.command is not command and "help_option_names" in command.context_settings
    for parameter in command.params if other_help else command.get_params(context):
        descriptor = getattr(parameter, "type_descriptor", None)
        if descriptor is not None and getattr(parameter, "_runtime_param", command) is None:
            parameter._runtime_param = _Plain(parameter, descriptor)
    for inner in getattr(command, "commands", {}).values():
        take_plain_values(inner, context)
    return command


class _Plain:
    """Stands where typer keeps what converts the values of a parameter."""

    def __init__(self, parameter: Any, descriptor: Any) -> None:
        self._parameter = parameter
        self._type = descriptor.annotation
        self._info = descriptor.parameter_info

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return ``value`` as the command gets it."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if self._info.parser is None:
            if several and get_origin(self._type) is list and isinstance(value, list | tuple):
                (kind,) = get_args(self._type)
                if all(self._stays(item, kind) for item in value):
                    return list(value)
            elif not several and self._stays(value, self._type):
                return value
        self._parameter._runtime_param = None
        return self._parameter.get_runtime_param().coerce(value, param=param, ctx=ctx)

    def _stays(self, value: Any, kind: Any) -> bool:
        """Return whether the conversion of ``value`` to ``kind`` would change nothing."""
        if get_origin(kind) is Literal:
            return any(type(value) is type(item) and value == item for item in get_args(kind))
        if kind is str:
            # Text from outside ASCII may hold bytes that are no text; that is pydantic's to judge.
            return type(value) is str and value.isascii()
        if kind is not int or type(value) is not int:
            return False
        least, most = self._info.min, self._info.max
        return (least is None or value >= least) and (most is None or value <= most)
