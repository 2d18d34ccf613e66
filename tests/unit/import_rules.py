"""Reading who imports whom out of source text, and the rules about it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors file_lock lazy_exports printable strict_json",
        "options hookspecs installed matmul_speed progress ramp redaction settings run_root"
        " stop_signals streams",
        "component",
        "plugins interfaces",
        "recipe",
        "distributed",
        "events rundir",
        "checkpoint data",
        "remote",
        "courier",
        "run",
        "sweeps generation evaluation int8_quality harness export deploy serve drift insight"
        " monitor planning clusters api doctor proof testing",
        "ui",
        "cli",
        "__main__",
    )
)
"""Parts of llmforge from the bottom up; a part imports from its own layer and those below."""

STAGES = ("reporting", "training", "setup")
"""Sub-packages of ``llmforge.run`` from the bottom up; the runner stands above them."""

UNKNOWN = len(LAYERS)
"""The layer of a module that is in none: nothing may import it."""

PUBLIC = frozenset(
    {"llmforge", "llmforge.errors", "llmforge.events", "llmforge.interfaces", "llmforge.testing"}
)
"""What a plugin may import of llmforge."""

SHAPELESS = frozenset({"utils", "util", "helpers", "misc"})
"""Names of modules that have no subject."""

Sources = Mapping[str, str]
"""Source text by dotted module name; a package's name ends in ``.__init__``."""


def sources() -> dict[str, str]:
    """Return the source text of every module of llmforge and its plugins."""
    found: dict[str, str] = {}
    for base in (ROOT / "llmforge", ROOT / "plugins" / "llmforge_plugins"):
        for path in sorted(base.rglob("*.py")):
            name = ".".join(path.relative_to(base.parent).with_suffix("").parts)
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(source: str, known: Sources) -> set[str]:
    """Return the modules that ``source`` imports anywhere but under ``TYPE_CHECKING``.

    ``from a import b`` counts as ``a.b`` when that is a known module, else as ``a``. The version
    number is there for everyone. What a package loads when its names are used counts too, but for
    that of llmforge itself.
    """
    found: set[str] = set()
    for node in _nodes(_parsed(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner == "llmforge.__version__":
                    continue
                is_module = inner in known or f"{inner}.__init__" in known
                found.add(inner if is_module else str(node.module))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_exports":
            homes = node.args[1]
            if isinstance(homes, ast.Dict) and "__version__ =" not in source:
                found |= {ast.literal_eval(home) for home in homes.values}
    return found


def violations(known: Sources) -> list[str]:
    """Return every breach of the rules as ``module: what it must not do``."""
    found: list[str] = []
    graph = {name: imports(source, known) for name, source in known.items()}
    for name, targets in graph.items():
        rules = _core_breaches if name.split(".")[0] == "llmforge" else _plugin_breaches
        found += [f"{name}: {breach}" for breach in rules(name, targets)]
        found += [
            f"{name}: imports click, which typer carries within itself"
            for target in targets
            if target.split(".")[0] == "click"
        ]
        if SHAPELESS & set(name.split(".")):
            found.append(f"{name}: a module is named after its subject")
    return found + [f"cycle: {' > '.join(cycle)}" for cycle in _cycles(graph)]


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from _nodes(other)
            continue
        yield child
        yield from _nodes(child)


def _core_breaches(name: str, targets: set[str]) -> Iterator[str]:
    own = _layer(name)
    if own == UNKNOWN:
        yield "has no layer: give it one in LAYERS of tests/unit/import_rules.py"
    for target in sorted(targets):
        if target.split(".")[0] == "llmforge_plugins":
            yield f"imports the plugin {target}"
        elif target == "llmforge":
            yield "imports from llmforge itself instead of the module that defines it"
        elif target.startswith("llmforge.") and _layer(target) > own:
            yield f"imports {target}, which is above it"
        elif _stage(target) > _stage(name) >= 0:
            yield f"imports {target}, which is of a later stage"


def _plugin_breaches(name: str, targets: set[str]) -> Iterator[str]:
    kind = name.split(".")[1]
    for target in sorted(targets):
        parts = target.split(".")
        if parts[0] == "llmforge" and ".".join(parts[:2]) not in PUBLIC:
            yield f"imports {target}, which is not public"
        elif parts[0] == "llmforge_plugins" and len(parts) > 1:
            shared = parts[1].startswith("_") and len(parts) == 2
            if not shared and parts[1] != kind:
                yield f"imports {target} of another kind"
            elif len(parts) == 3 and name == f"llmforge_plugins.{kind}._{parts[2]}":
                yield f"imports {target}, whose heavy half it is"


def _stage(module: str) -> int:
    parts = module.split(".")
    inside = parts[:2] == ["llmforge", "run"] and len(parts) > 3 and parts[2] in STAGES
    return STAGES.index(parts[2]) if inside else -1


def _layer(module: str) -> int:
    part = module.split(".")[1] if "." in module else ""
    if part in ("", "__init__"):
        return 0
    for index, layer in enumerate(LAYERS):
        if part in layer:
            return index
    return UNKNOWN


def _cycles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Yield one cycle for each group of modules that import each other."""
    edges = {
        name: sorted({found for target in targets for found in _loaded(name, target, graph)})
        for name, targets in graph.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> Iterator[list[str]]:
        if name in trail:
            yield [*trail[trail.index(name) :], name]
        elif name not in done:
            for target in edges[name]:
                yield from visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        yield from visit(name, [])


def _loaded(name: str, target: str, graph: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield the modules Python runs for an import of ``target`` by ``name``."""
    parts = target.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        package = f"{prefix}.__init__"
        if package in graph and not name.startswith(f"{prefix}."):
            yield package
        elif prefix in graph and prefix != name:
            yield prefix
