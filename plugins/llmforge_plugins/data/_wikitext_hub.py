"""WikiText from the Hugging Face hub, as plain text files in the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from llmforge import RunContext, install_command
from llmforge.errors import DataError
from llmforge_plugins._hub import UnreachableError, fetch
from llmforge_plugins.data._files import sha256_of

NAMES = {
    "wikitext-2-raw-v1": "WikiText-2",
    "wikitext-2-v1": "WikiText-2",
    "wikitext-103-raw-v1": "WikiText-103",
    "wikitext-103-v1": "WikiText-103",
}
REPOSITORY = "Salesforce/wikitext"
_SPLITS = ("train", "validation", "test")
_ROWS = 4096
_META = "meta.json"


def hub_files(options: Any, run: RunContext) -> dict[str, Path]:
    """Return the text file of each split, from the cache or downloaded and converted now.

    Raises:
        UnreachableError: the cache does not have it and the hub cannot be asked.
        MissingError: the hub does not have it.
        DataError: the cache cannot be written.
    """
    directory = run.cache / "datasets" / "wikitext" / f"{options.subset}-{options.revision[:12]}"
    files = {split: directory / f"{split}.txt" for split in _SPLITS}
    if directory.exists():
        if _intact(directory, files):
            return files
        run.notice(f"{directory} is damaged: preparing it again")
    shards = _shards(options, run)
    try:
        _convert(shards, directory)
    except OSError as error:
        raise DataError(
            f"{directory} cannot be written: {error}",
            remedy="free space there, or set FORGE_CACHE to another directory",
        ) from error
    return files


def _intact(directory: Path, files: dict[str, Path]) -> bool:
    try:
        meta = json.loads((directory / _META).read_text(encoding="utf-8"))
        return all(sha256_of(path) == meta["sha256"][split] for split, path in files.items())
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return False


def _shards(options: Any, run: RunContext) -> dict[str, list[Path]]:
    """Return the Parquet files of each split in the hub's cache, downloading what is missing."""
    found: dict[str, list[Path]] = {}
    for split in _SPLITS:
        count = 2 if split == "train" and "-103-" in options.subset else 1
        found[split] = [
            fetch(
                REPOSITORY,
                f"{options.subset}/{split}-{index:05}-of-{count:05}.parquet",
                revision=options.revision,
                kind="dataset",
                offline=run.offline,
                timeout=options.timeout,
            )
            for index in range(count)
        ]
    return found


def _convert(shards: dict[str, list[Path]], directory: Path) -> None:
    """Write the splits as text beside ``directory`` and rename them there, all at once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        for split, parts in shards.items():
            _write_text(parts, work / f"{split}.txt")
        hashes = {split: sha256_of(work / f"{split}.txt") for split in shards}
        (work / _META).write_text(json.dumps({"sha256": hashes}), encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        work.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_text(parts: list[Path], target: Path) -> None:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UnreachableError(f"reading it needs pyarrow: {install_command('pyarrow')}") from error
    with target.open("w", encoding="utf-8", newline="") as file:
        for part in parts:
            for batch in parquet.ParquetFile(part).iter_batches(_ROWS, columns=["text"]):
                # The data set has one row a line, blank ones emptied; the files have " \n" there.
                file.writelines(line or " \n" for line in batch.column(0).to_pylist())
