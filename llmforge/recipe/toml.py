"""Writing recipes as TOML, plainly or with each value's origin beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

from llmforge.recipe.key_lines import dotted, key_lines

_COLUMN = 44
"""Origins begin here, unless a value is longer."""
_WIDTH = 100


def to_toml(tables: Mapping[str, Any]) -> str:
    """Return nested plain tables as a TOML document."""
    return tomli_w.dumps(tables)


def to_annotated_toml(tables: Mapping[str, Any], *, origins: Mapping[str, str]) -> str:
    """Return ``tables`` as TOML with the origin of each value as a comment at its line.

    The comments stand in one column; a value too long for that gets its comment above.
    """
    text = to_toml(tables)
    comments = {line: origins.get(dotted(path)) for path, line in key_lines(text).items()}
    rows = []
    for number, row in enumerate(text.splitlines(), start=1):
        comment = comments.get(number)
        if not comment:
            rows.append(row)
        elif len(row) + len(comment) + 4 <= _WIDTH:
            rows.append(f"{row:<{_COLUMN}}  # {comment}")
        else:
            rows += [f"# {comment}", row]
    return "\n".join(rows) + "\n"
