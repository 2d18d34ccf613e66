"""Which files the options of a component name: paths, folders, globs, URLs."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmforge import Problem, RunContext
from llmforge.errors import DataError
from llmforge_plugins.data._remote import fetch_urls, glob_urls, is_url, shown

SPLITS = ("train", "validation", "test")
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the library ``datasets`` writes beside the rows, about them."""

_WILD = frozenset("*?[")


def asked(options: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (split, option, patterns) for every option that names files."""
    for split, key in (("train", "train"), ("train", "path"), *((s, s) for s in SPLITS[1:])):
        value = getattr(options, key)
        if value is not None:
            patterns = [value] if isinstance(value, str) else list(value)
            yield split, key, [pattern.removeprefix("file://") for pattern in patterns]


def find_files(
    options: Any, table: str, suffixes: Sequence[str], run: RunContext
) -> dict[str, list[str]]:
    """Return the paths and URLs of each split's files, those of a folder or glob sorted.

    Files of validation and test are left out of training, with a notice.

    Args:
        options: ``train`` or ``path``, ``validation`` and ``test``.
        table: the option table, for messages.
        suffixes: what the files of a folder must end with.
        run: told what was left out.

    Raises:
        DataError: a pattern matches nothing, or nothing is left to train on.
    """
    named = named_files(options, table, suffixes, run)
    return {split: list(found) for split, found in named.items()}


def named_files(
    options: Any, table: str, suffixes: Sequence[str], run: RunContext
) -> dict[str, dict[str, str]]:
    """Return what :func:`find_files` does, with the pattern that named each file."""
    found = {
        split: _matches(f"{table}.{key}", patterns, suffixes, run)
        for split, key, patterns in asked(options)
    }
    held_out = {path for split, paths in found.items() if split != "train" for path in paths}
    train = {path: name for path, name in found["train"].items() if path not in held_out}
    if len(train) < len(found["train"]):
        shared = [path.rpartition("/")[2] for path in found["train"] if path in held_out]
        run.notice(
            f"left out of training, because validation or test has them: {', '.join(shared)}"
        )
    if not train:
        raise DataError(f"{table}.train has no file that is not also validation or test")
    return {**found, "train": train}


def fetched(sources: Sequence[str], run: RunContext) -> list[Path]:
    """Return the local path of each of ``sources``, what is behind URLs from the cache.

    Raises:
        DataError: one is not there.
    """
    urls = [source for source in sources if is_url(source)]
    copies = dict(zip(urls, fetch_urls(urls, run=run), strict=True))
    return [copies.get(source) or Path(source) for source in sources]


def local_problems(options: Any, table: str, suffixes: Sequence[str]) -> list[Problem]:
    """Return a problem for every local pattern that matches no file."""
    return [
        Problem(key=f"{table}.{key}", message=_nothing(pattern))
        for _, key, patterns in asked(options)
        for pattern in patterns
        if not is_url(pattern) and not _local(pattern, suffixes)
    ]


def _matches(
    key: str, patterns: Sequence[str], suffixes: Sequence[str], run: RunContext
) -> dict[str, str]:
    """Return the pattern that named each file; of several the first."""
    found: dict[str, str] = {}
    for pattern in patterns:
        paths = _urls(pattern, suffixes, run) if is_url(pattern) else _local(pattern, suffixes)
        if not paths:
            raise DataError(f"{key}: {_nothing(pattern)}", remedy="check the pattern")
        for path in paths:
            found.setdefault(path, pattern)
    return found


def _local(pattern: str, suffixes: Sequence[str]) -> list[str]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [str(path.resolve())]
    if path.is_dir():
        files = (
            item
            for item in path.rglob("*")
            if item.name.endswith(tuple(suffixes)) and item.name not in NO_ROWS and item.is_file()
        )
    else:
        # Path.glob takes no absolute pattern and matches hidden files.
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = (item for item in matches if item.is_file())
    return [str(item) for item in sorted(item.resolve() for item in files)]


def _urls(pattern: str, suffixes: Sequence[str], run: RunContext) -> list[str]:
    if shown(pattern).endswith("/"):
        return files_of_rows(glob_urls(f"{pattern}**", run=run), suffixes)
    return glob_urls(pattern, run=run) if _WILD & set(shown(pattern)) else [pattern]


def files_of_rows(urls: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return the URLs that end as files of rows do, without what is only about them."""
    rows = (url for url in urls if url.endswith(tuple(suffixes)))
    return [url for url in rows if url.rpartition("/")[2] not in NO_ROWS]


def _nothing(pattern: str) -> str:
    where = "" if is_url(pattern) else f" (looked in {Path.cwd()})"
    return f"no file matches '{shown(pattern)}'{where}"
