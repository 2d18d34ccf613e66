"""Datasets of the Hugging Face hub as data: ``hf://datasets/OWNER/NAME@REVISION``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from llmforge import RunContext
from llmforge.errors import DataError
from llmforge_plugins.data._files import written_whole
from llmforge_plugins.data._patterns import files_of_rows
from llmforge_plugins.data._remote import glob_urls

_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(/.*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 20.0
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval"),
}
"""What the files of a split are called on the hub, in words of their paths."""


class HubDatasets:
    """Finds the files of datasets, each at one commit.

    Args:
        run: a run that was started uses the commits that it was started with.

    Attributes:
        commits: of each dataset as a recipe names it, ``OWNER/NAME@REVISION``.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._recorded = run.resolved.get("data", {}).get("datasets", {})
        self.commits: dict[str, str] = {}

    def files(self, pattern: str, split: str, suffixes: Sequence[str]) -> list[str]:
        """Return ``pattern`` with the commit in it, or the files of a dataset named as a whole.

        Anything but a dataset of the hub is returned as it is.

        Raises:
            DataError: the hub has no such dataset or cannot be asked, or none of the files is of
                the split.
        """
        found = _DATASET.fullmatch(pattern)
        if found is None:
            return [pattern]
        name, revision, within = found.groups()
        base = f"hf://datasets/{name}@{self._commit(name, unquote(revision or 'main'))}"
        if within not in (None, "/"):
            return [base + within]
        urls = files_of_rows(glob_urls(f"{base}/**", run=self._run), suffixes)
        chosen = _of_split([url.removeprefix(base) for url in urls], split)
        if not chosen:
            raise DataError(
                f"no file of the dataset {name} can be told to be of the {split} split",
                remedy=f"name the files: hf://datasets/{name}/PATH, with * and ** if there are "
                f"several (endings: {', '.join(suffixes[:4])}, …)",
            )
        return [base + path for path in chosen]

    def _commit(self, name: str, revision: str) -> str:
        key = f"{name}@{revision}"
        if _COMMIT.fullmatch(revision):
            return revision
        if key not in self.commits:
            self.commits[key] = self._recorded.get(key) or self._ask(name, revision)
        return self.commits[key]

    def _ask(self, name: str, revision: str) -> str:
        """Return the commit that a branch or tag is at, or was when the hub last answered."""
        kept = hashlib.sha256(f"{name}@{revision}".encode()).hexdigest()[:24]
        record = self._run.cache / "datasets" / "hub" / f"{kept}.json"
        if self._run.offline:
            return self._last_commit(record, name, RuntimeError("offline mode is on"))
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = HfApi().dataset_info(name, revision=quote(revision, safe=""), timeout=_TIMEOUT)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise DataError(
                f"the hub has no dataset {name} at revision '{revision}'",
                remedy="check both; one that is private or has conditions needs HF_TOKEN",
            ) from error
        except Exception as error:  # HTTP and TLS libraries have no common base
            return self._last_commit(record, name, error)
        commit = str(info.sha)
        with written_whole(record) as partial:
            partial.write_text(json.dumps({"commit": commit}), encoding="utf-8")
        self._run.notice(
            f"the dataset {name} is at commit {commit}; "
            f"hf://datasets/{name}@{commit[:12]}… in full keeps other runs to it too"
        )
        return commit

    def _last_commit(self, record: Path, name: str, reason: Exception) -> str:
        try:
            commit = str(json.loads(record.read_text(encoding="utf-8"))["commit"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"the dataset {name} is not in the cache, and the hub cannot be asked: {reason}",
                remedy="set HF_ENDPOINT to a mirror, or run 'forge data prepare RECIPE' once with "
                "internet",
            ) from reason
        self._run.notice(f"the hub cannot be asked ({reason}): using {name} at {commit}")
        return commit


def _of_split(paths: Sequence[str], split: str) -> list[str]:
    """Return the files of a split; of a dataset that names no split, all are for training."""
    told = {path: _split_of(path) for path in paths}
    if any(told.values()):
        return [path for path in paths if told[path] == split]
    return list(paths) if split == "train" else []


def _split_of(path: str) -> str | None:
    """Return the split that the last word of a path speaks of, of its name before its folders."""
    for part in reversed(path.lower().split("/")):
        for word in re.split(r"[^a-z]+", part):
            for split, names in _NAMES.items():
                if word in names:
                    return split
    return None
