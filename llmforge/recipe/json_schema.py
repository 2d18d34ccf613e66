"""JSON Schema of recipes, so that editors complete and check them while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmforge import plugins
from llmforge.component import KINDS, Kind
from llmforge.errors import PluginError
from llmforge.options import Options
from llmforge.recipe.schema import BY_ADDRESS, CORE_TABLES, KIND_KEYS, NoKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TRAINING = ("model", "data", "train")  # a recipe with one needs all; without any it generates

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """Return the JSON Schema of a recipe with every installed component's options.

    All components are imported for it. One that cannot be is described with the reason, and its
    table is left open.
    """
    builder = _Builder()
    tables: Schema = {name: builder.options(name, table) for name, table in CORE_TABLES.items()}
    tables |= {kind.name: builder.kind(kind) for kind in KINDS.values()}
    overlay = _table("Values laid over the recipe by --profile NAME.", tables)
    extends = {"type": "string", "description": "A recipe file, or shipped recipe, to start from."}
    profiles = {
        "type": "object",
        "description": "Overlays chosen with --profile NAME.",
        "additionalProperties": {"$ref": "#/$defs/overlay"},
    }
    return {
        "$schema": DIALECT,
        "title": "llmforge recipe",
        **_table("", {"extends": extends, **tables, "profile": profiles}),
        "if": {
            "not": {"required": ["extends"]},
            "anyOf": [{"required": [name]} for name in _TRAINING],
        },
        "then": {
            "required": list(_TRAINING),
            "properties": {
                "model": {"required": ["name"]},
                "data": {"required": ["name"]},
                "train": {"oneOf": [{"required": ["max_steps"]}, {"required": ["epochs"]}]},
            },
        },
        "$defs": {**builder.definitions, "overlay": overlay},
    }


class _Builder:
    """Collects the schemas of option tables and the definitions they refer to.

    Nothing inside a table is required: an extended recipe or a profile may supply it.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def options(self, name: str, options: type[Options]) -> Schema:
        """Return a reference to the schema of one option table."""
        schema = options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        for inner, definition in schema.pop("$defs", {}).items():
            definition.pop("required", None)
            self.definitions[f"{name}.{inner}"] = _without_null(definition)
        schema.pop("title", None)
        schema.pop("required", None)
        self.definitions[name] = _without_null(schema)
        return {"$ref": f"#/$defs/{name}"}

    def kind(self, kind: Kind) -> Schema:
        """Return the schema of a kind's table: selector, shared keys, one table a component."""
        try:
            names = sorted(plugins.entries(kind.name))
        except PluginError as error:
            return {"type": "object", "description": error.message}
        shared = KIND_KEYS.get(kind.name, NoKeys)
        own = _without_null(shared.model_json_schema()).get("properties", {})
        components = {name: self._component(kind.name, name) for name in names}
        return _table(_first_line(shared.__doc__), _selector(kind, names) | own | components)

    def _component(self, kind: str, name: str) -> Schema:
        try:
            component = plugins.load(kind, name)
        except PluginError as error:
            return {"type": "object", "description": f"{error.message}. {error.remedy}"}
        return {
            **self.options(f"{kind}.{name}", component.Options),
            "description": _first_line(component.__doc__),
        }


def _selector(kind: Kind, names: Iterable[str]) -> Schema:
    choice = {"type": "string", "enum": list(names)}
    if kind.name in BY_ADDRESS:
        return {}
    if kind.many:
        text = f"Every {kind.name} that acts."
        listed = {"type": "array", "items": choice, "uniqueItems": True, "description": text}
        return {"names": listed}
    return {"name": {**choice, "description": f"The {kind.name} to use."}}


def _table(description: str, properties: Mapping[str, Any]) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    return {"description": description, **schema} if description else schema


def _without_null(node: Any) -> Any:
    """Return ``node`` without null as a type or default: TOML has none, absence says it."""
    if isinstance(node, list):
        return [_without_null(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _without_null(value)
        for key, value in node.items()
        if not (key == "default" and value is None)
    }
    choices = kept.get("anyOf")
    if isinstance(choices, list) and len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    kept.pop("title", None) if isinstance(kept.get("title"), str) else None
    return kept


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].replace("``", "")
