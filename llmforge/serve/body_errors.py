"""What is wrong with the body of a request, in one sentence that names the field as OpenAI does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmforge.serve.api_errors import ApiError

_JSON = "application/json"

_ALTERNATIVES = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "content": "a text or a list of parts of the type 'text'",
    "stop": "a text or a list of texts",
}
"""What fields take that have several forms, by their names."""

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a text",
}

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}

_PARTS_BEYOND = ("[key]",)
"""What pydantic adds to the place of a wrong key."""


def unreadable(error: BaseException | None) -> ApiError:
    """Return the error of a body that could not be read as JSON, by what its reader raised."""
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "the body is not UTF-8", code="invalid_encoding")
    if isinstance(error, RecursionError):
        return ApiError(400, "the JSON of the body is nested too deeply", code="invalid_json")
    return ApiError(400, "the body cannot be read as JSON", code="invalid_json")


def invalid(problems: Sequence[Mapping[str, Any]], body: Any, *, content_type: str) -> ApiError:
    """Return the error of a body that is not what its path takes.

    Args:
        problems: as pydantic lists them.
        body: as it was read.
        content_type: what the request says that it is.
    """
    named = content_type.partition(";")[0].strip().lower()
    if named != _JSON and not named.endswith("+json"):
        told = f"'{named[:100]}'" if named else "missing"
        message = f"the Content-Type is {told}: send the body as {_JSON}"
        return ApiError(415, message, code="unsupported_content_type")
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", "")
        where = first["loc"][-1]
        place = f" at character {where + 1:,}" if isinstance(where, int) else ""
        message = f"the body is not valid JSON{place}: {reason}".rstrip(": ")
        return ApiError(400, message, code="invalid_json")
    if not isinstance(body, dict):
        return ApiError(400, "the body must be a JSON object", code="invalid_json")
    places = [_path(problem, body) for problem in problems]
    # of several forms the one that fits furthest is meant, and the first item says which it is
    meant = max(
        range(len(places)),
        key=lambda number: (len(places[number]), places[number][-1:] != [0], -number),
    )
    return _described(problems[meant], places[meant])


def _path(problem: Mapping[str, Any], body: Any) -> list[str | int]:
    """Return the place of a problem in the body, without pydantic's names of alternatives."""
    found: list[str | int] = []
    here: Any = body
    parts = [part for part in problem["loc"][1:] if part not in _PARTS_BEYOND]
    for number, part in enumerate(parts, 1):
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        in_object = isinstance(here, dict) and part in here and not _is_key(problem, number)
        is_missing = problem["type"] == "missing" and number == len(parts)
        if in_list or in_object:
            here = here[part]
        if in_list or in_object or is_missing:
            found.append(part)
    return found


def _is_key(problem: Mapping[str, Any], number: int) -> bool:
    """Return whether a part of the place is a key that is itself wrong."""
    place = problem["loc"][1:]
    return number < len(place) and place[number] in _PARTS_BEYOND


def _described(problem: Mapping[str, Any], path: Sequence[str | int]) -> ApiError:
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    param = param.removeprefix(".")
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        return ApiError(400, f"'{param}' is not supported here", param=param, code="unsupported")
    if kind == "missing":
        return ApiError(400, f"'{param}' is missing", param=param, code="missing_parameter")
    name = path[-1] if path else ""
    if kind in _TYPES and name in _ALTERNATIVES:
        message, code = f"must be {_ALTERNATIVES[str(name)]}", "invalid_type"
    elif kind in _TYPES:
        message, code = f"must be {_TYPES[kind]}", "invalid_type"
    elif kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        message, code = f"must be {words} {_number(context[key])}", "invalid_value"
    elif kind == "literal_error":
        message, code = f"must be {context['expected']}", "invalid_value"
    elif kind == "too_short":
        message, code = "must not be empty", "invalid_value"
    elif kind == "string_pattern_mismatch":
        message, code = f"has a key that is no token id: '{problem['loc'][-2]}'", "invalid_value"
    else:
        message, code = f"is wrong: {problem['msg']}", "invalid_value"
    return ApiError(400, f"'{param}' {message}", param=param, code=code)


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
