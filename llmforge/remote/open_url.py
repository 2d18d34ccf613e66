"""From a URL to an open place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llmforge import plugins
from llmforge.component import Component
from llmforge.errors import StorageError
from llmforge.interfaces import Storage, public_url
from llmforge.options import problems_from
from llmforge.plugins import storage_component


def open_storage(url: str, options: Mapping[str, Any] | None = None) -> Storage:
    """Open the place behind ``url`` with the storage component of its scheme.

    Args:
        url: any fsspec URL.
        options: the component's option table.

    Raises:
        StorageError: it is no URL, the component's package is missing, or it takes no such option.
        PluginError: the component cannot be loaded.
    """
    component = _component(url, options or {})
    for problem in component.missing_packages():
        raise StorageError(f"{public_url(url)}: {problem.message}", remedy=problem.remedy)
    manager = plugins.build_manager([component])
    opened: Storage = plugins.call_factory(manager, "forge_open_storage", url=url)
    return opened


def _component(url: str, options: Mapping[str, Any]) -> Component:
    if "://" not in url.strip(":/"):
        raise StorageError(
            f"'{public_url(url)}' is not a URL", remedy="for example s3://bucket/runs"
        )
    name = storage_component(url, plugins.entries("storage"))
    kind = plugins.load("storage", name)
    try:
        # Through JSON, as a recipe's tables go.
        checked = kind.Options.model_validate_json(json.dumps(dict(options)))
    except ValidationError as error:
        prefix = f"storage.{name}"
        found = problems_from(error, prefix=prefix, options=kind.Options, table=options)
        raise StorageError("\n  ".join(str(problem) for problem in found)) from error
    return kind(checked)
