"""Values put on top of each other: files, a profile, overrides; later wins."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.errors import UsageError
from llmforge.printable import decoded
from llmforge.recipe.resolved import Origin
from llmforge.recipe.schema import ALTERNATIVES, Alternatives
from llmforge.recipe.toml import KeyPath, parse_key


@dataclass(frozen=True)
class Override:
    """One value set from outside the files.

    Attributes:
        path: the key's parts.
        value: the new value; None takes the key away, so that its default holds again.
        origin: what to show as its source, for example ``--set`` or ``--max-steps``.
    """

    path: KeyPath
    value: Any
    origin: str = "--set"


def parse_set(text: str, *, origin: str = "--set") -> Override:
    """Return the override written as ``key=value``: a TOML value, else a plain string.

    Raises:
        UsageError: there is no ``=``, or what stands before it is not a key.
    """
    key, equals, raw = decoded(text).partition("=")
    try:
        path = parse_key(key.strip()) if equals else ()
    except ValueError:
        path = ()
    if not path:
        remedy = f"write {origin} key=value, for example {origin} train.max_steps=20"
        raise UsageError(f"{origin} {text}: not an assignment", remedy=remedy)
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    value = parsed["value"] if list(parsed) == ["value"] else raw
    return Override(path, value, origin)


def as_overrides(
    given: Sequence[Override | str] | Mapping[str, Any], *, origin: str = "overrides"
) -> list[Override]:
    """Return overrides from ``key=value`` texts, or from a mapping of dotted keys or tables."""
    if not isinstance(given, Mapping):
        return [parse_set(item) if isinstance(item, str) else item for item in given]
    return [Override(path, value, origin) for path, value in _flatten(given, ())]


class Layers:
    """Values put on top of each other, each knowing where it came from.

    Attributes:
        values: the merged tables.
        origins: where each value and each table of ``values`` was written last.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[KeyPath, Origin] = {}
        self._layer_of: dict[KeyPath, int] = {}
        self._layer = 0

    def begin(self) -> None:
        """Start the next layer; an alternative it sets replaces the other of lower layers."""
        self._layer += 1

    def add(self, tables: Mapping[str, Any], *, origin: Callable[[KeyPath], Origin]) -> None:
        """Merge ``tables`` into the present layer; tables merge deeply, all else is replaced."""
        self._merge(self.values, tables, (), origin)

    def remove(self, path: KeyPath) -> None:
        """Take a value away, if it is there."""
        node: Any = self.values
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(path[-1], None)
            self._forget(path)

    def origin(self, path: KeyPath) -> Origin | None:
        """Return where ``path``, or the nearest table around it, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None

    def _merge(
        self,
        target: dict[str, Any],
        tables: Mapping[str, Any],
        prefix: KeyPath,
        origin: Callable[[KeyPath], Origin],
    ) -> None:
        for key, value in tables.items():
            path = (*prefix, key)
            if isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    self._forget(path)
                    target[key] = {}
                self.origins[path] = origin(path)
                self._merge(target[key], value, path, origin)
            else:
                self._forget(path)
                self._drop_alternatives(path)
                target[key] = copy.deepcopy(value)
                self.origins[path] = origin(path)
                self._layer_of[path] = self._layer
                for item in _items(value, path):
                    self.origins[item] = origin(item)

    def _drop_alternatives(self, path: KeyPath) -> None:
        for group in ALTERNATIVES:
            if _matches(path, group):
                for name in group.names - {path[-1]}:
                    other = (*path[:-1], name)
                    if self._layer_of.get(other, self._layer) < self._layer:
                        self.remove(other)

    def _forget(self, path: KeyPath) -> None:
        if path not in self.origins:  # then nothing below it is either
            return
        for known in [key for key in self.origins if key[: len(path)] == path]:
            del self.origins[known]
            self._layer_of.pop(known, None)


def _flatten(tables: Mapping[str, Any], prefix: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in tables.items():
        try:
            path = prefix + parse_key(key)
        except ValueError as error:
            raise UsageError(f"overrides: {key!r} is not a recipe key") from error
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, path)
        else:
            yield path, value


def _items(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Return the paths inside a list."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            inner = (*path, str(index))
            yield inner
            yield from _items(item, inner)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = (*path, key)
            yield inner
            yield from _items(item, inner)


def _matches(path: KeyPath, group: Alternatives) -> bool:
    if path[-1] not in group.names:
        return False
    if group.below:
        return path[: len(group.table)] == group.table
    return len(path) == len(group.table) + 1 and all(
        want in ("*", part) for want, part in zip(group.table, path[:-1], strict=True)
    )
