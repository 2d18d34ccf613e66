"""Packages: those llmforge needs, and which of its extras are complete."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement

from llmforge.component import importable
from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.installed import DISTRIBUTION, PACKAGES

_MODULES = {"python-dotenv": "dotenv"}
"""Modules by the package, where the two have different names."""

_TOGETHER = "all"
_FOR_DEVELOPERS = frozenset({"dev", "docs", "bench"})


def check_packages() -> Iterator[Finding]:
    """Yield whether what llmforge requires is installed, importable and new enough."""
    try:
        required = [Requirement(text) for text in distribution(DISTRIBUTION).requires or ()]
        extras = distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or []
    except PackageNotFoundError:
        yield warning(
            "packages.llmforge",
            f"llmforge runs from source and is not installed as {DISTRIBUTION}: no components are "
            "found",
            remedy="pip install -e .",
        )
        return
    own = [item for item in required if item.marker is None or _holds(item, extra="")]
    yield from _core(own)
    known = {str(item) for item in own}
    optional = {
        extra: [item for item in required if str(item) not in known and _holds(item, extra=extra)]
        for extra in extras
        if extra != _TOGETHER and extra not in _FOR_DEVELOPERS
    }
    yield from _extras(optional)


def _core(required: list[Requirement]) -> Iterator[Finding]:
    wrong = False
    for item in required:
        module = _MODULES.get(item.name, item.name.replace("-", "_"))
        found = _version(item.name)
        if found is None or not importable(module):
            wrong = True
            state = "is not installed" if found is None else f"{found} cannot be imported"
            yield problem(
                "packages.required",
                f"llmforge needs {item.name}, which {state}",
                remedy=f"pip install --force-reinstall '{_without_marker(item)}'",
            )
        elif not item.specifier.contains(found, prereleases=True):
            wrong = True
            yield problem(
                "packages.versions",
                f"{item.name} {found} is not one that llmforge takes: {item.specifier}",
                remedy=f"pip install --upgrade '{_without_marker(item)}'",
            )
    if not wrong:
        yield ok("packages.required", f"llmforge {version(DISTRIBUTION)} and all it needs")


def _extras(optional: dict[str, list[Requirement]]) -> Iterator[Finding]:
    complete, missing = [], []
    for extra, items in sorted(optional.items()):
        if any(_version(item.name) is None for item in items):
            missing.append(extra)
        else:
            complete.append(extra)
    for item in _unique(optional):
        found = _version(item.name)
        if found is not None and not item.specifier.contains(found, prereleases=True):
            yield problem(
                "packages.versions",
                f"{item.name} {found} is not one that llmforge takes: {item.specifier}",
                remedy=f"pip install --upgrade '{_without_marker(item)}'",
                concerns=package_need(item.name),
            )
    yield ok("packages.extras", f"complete extras: {', '.join(complete) or 'none'}")
    if missing:
        yield ok(
            "packages.missing",
            f"extras that are not installed, or in part: {', '.join(missing)}",
            remedy=f"pip install '{DISTRIBUTION}[{','.join(missing)}]', or those of them you need",
        )


def package_need(name: str) -> str:
    """Return what a recipe needs that needs the package, or the module, ``name``."""
    package = name.partition(".")[0]
    return f"package:{PACKAGES.get(package, package).replace('-', '_').lower()}"


def _unique(optional: dict[str, list[Requirement]]) -> list[Requirement]:
    found = {item.name: item for items in optional.values() for item in items}
    return [found[name] for name in sorted(found)]


def _holds(item: Requirement, *, extra: str) -> bool:
    try:
        return item.marker is not None and item.marker.evaluate({"extra": extra})
    except UndefinedEnvironmentName:
        return False


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _without_marker(item: Requirement) -> str:
    extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
    return f"{item.name}{extras}{item.specifier}"
