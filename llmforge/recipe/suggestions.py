"""Suggesting where a key belongs that stands in the wrong table or is misspelt."""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.component import KINDS
from llmforge.options import Options, closest
from llmforge.recipe.schema import CORE_TABLES, KIND_KEYS
from llmforge.recipe.toml import KeyPath, dotted

_SURE = 0.8  # a misspelling is looked for in other tables only when it is this near


class Places:
    """The tables of one recipe and the keys each may have.

    Only core tables, kinds and the components the recipe names are known here: a suggestion
    never imports a component.
    """

    def __init__(self, components: Mapping[tuple[str, str], type[Options]]) -> None:
        self._tables: dict[KeyPath, list[str]] = {
            **{(name,): list(table.model_fields) for name, table in CORE_TABLES.items()},
            **{(name,): list(table.model_fields) for name, table in KIND_KEYS.items()},
            **{key: list(options.model_fields) for key, options in components.items()},
        }

    def remedy(self, key: str, *, table: KeyPath) -> str:
        """Return what to do about the unknown ``key`` of ``table``."""
        homes = [home for home, keys in self._tables.items() if key in keys and home != table]
        if homes:
            return self._belongs(key, homes, table)
        own = self._tables.get(table, [])
        if near := closest(key, own):
            return f"did you mean '{near}'?"
        everywhere = {name for keys in self._tables.values() for name in keys}
        if near := closest(key, everywhere, cutoff=_SURE):
            homes = [home for home, keys in self._tables.items() if near in keys]
            return f"did you mean '{near}'? {self._belongs(near, homes, table)}"
        if own:
            return "known keys: " + ", ".join(own)
        return f"options go into the component's own table, [{dotted((*table, 'NAME'))}]"

    def table_remedy(self, name: str) -> str:
        """Return what to do about an unknown top-level table or key ``name``."""
        known = [*CORE_TABLES, *KINDS]
        if near := closest(name, known):
            return f"did you mean '{near}'?"
        component = [key for key in self._tables if len(key) == 2 and key[1] == name]
        if component:
            return f"its table is [{dotted(component[0])}]"
        homes = [home for home, keys in self._tables.items() if name in keys]
        if homes:
            return self._belongs(name, homes, ())
        return "known tables: " + ", ".join([*known, "profile"])

    @staticmethod
    def _belongs(key: str, homes: list[KeyPath], table: KeyPath) -> str:
        nearest = sorted(homes, key=lambda home: home[:1] != table[:1])
        listed = " or ".join(f"[{dotted(home)}]" for home in nearest[:3])
        return f"`{key}` belongs in {listed}"
