"""Where WikiText comes from, and its articles as documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from llmforge import RunContext, track
from llmforge.errors import DataError
from llmforge_plugins._hub import MissingError, UnreachableError
from llmforge_plugins.data._files import sha256_of
from llmforge_plugins.data._remote import fetch_url, is_url, shown
from llmforge_plugins.data._text_files import read_lines
from llmforge_plugins.data._wikitext_hub import NAMES, REPOSITORY, hub_files

SAMPLE = Path(__file__).parent / "sample"
_ON_HUB = {"repository": REPOSITORY, "language": "en"}
_ACCEPTED = {
    "train": ("train.txt", "wiki.train.raw", "wiki.train.tokens"),
    "validation": ("valid.txt", "validation.txt", "wiki.valid.raw", "wiki.valid.tokens"),
    "test": ("test.txt", "wiki.test.raw", "wiki.test.tokens"),
}


class WikiTextData:
    """WikiText files as splits of articles.

    Args:
        files: the file of each split.
        description: one line for the log.
        source: ``hub``, ``path`` or ``sample``.

    Attributes:
        files: where the splits lie.
        characters: about how long the text of each split is.
        resolution: what a resumed run must find in ``run.resolved["data"]``, so that it never
            changes between the corpus and the sample.
    """

    def __init__(self, files: Mapping[str, Path], *, description: str, source: str) -> None:
        self.splits: Sequence[str] = tuple(files)
        self.description = description
        self.resolution = {"source": source, **(_ON_HUB if source == "hub" else {})}
        self.files = tuple(str(path) for path in files.values())
        self._files = dict(files)
        self.characters = {split: path.stat().st_size for split, path in files.items()}
        with track("reading WikiText", total=sum(self.characters.values())) as task:
            hashes = {split: sha256_of(path, moved=task.advance) for split, path in files.items()}
        content = json.dumps(["wikitext articles", hashes])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield the articles of ``split``; together they are its file, byte for byte.

        Raises:
            DataError: the file is not readable as UTF-8.
        """
        return articles(read_lines(self._files[split]))


def build(options: Any, run: RunContext) -> WikiTextData:
    """Return the corpus the options ask for, or the sample in its place.

    Raises:
        DataError: it is not there, and the sample is not allowed.
    """
    if options.path is not None:
        return _from_path(options.path, run)
    started_on = run.resolved.get("data", {}).get("source")
    if started_on == "sample":
        return _sample()
    try:
        files = hub_files(options, run)
    except UnreachableError as error:
        if options.offline_sample and started_on is None:
            sample = _sample()
            run.notice(
                f"{NAMES[options.subset]} is not reachable ({error}): "
                f"training on the bundled sample of {_kilobytes()} KB"
            )
            return sample
        raise DataError(
            f"{NAMES[options.subset]} is not reachable ({error})",
            remedy="set data.wikitext.path to a folder that has it, data.wikitext.offline_sample = "
            "true to train on the bundled sample, or HF_ENDPOINT to a mirror of the hub",
        ) from error
    except MissingError as error:
        raise DataError(
            f"{NAMES[options.subset]} is not on the hub at data.wikitext.revision = "
            f"'{options.revision}': {error}",
            remedy="leave data.wikitext.revision out",
        ) from error
    description = f"{NAMES[options.subset]} ({options.subset}, revision {options.revision[:12]})"
    return WikiTextData(files, description=description, source="hub")


def local_files(path: str) -> dict[str, Path]:
    """Return the file of each split in a local folder.

    Raises:
        DataError: there is no such folder or no training file in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder} (looked in {Path.cwd()})",
            remedy="set data.wikitext.path to the folder that holds train.txt",
        )
    found = {
        split: folder / name
        for split, names in _ACCEPTED.items()
        for name in reversed(names)
        if (folder / name).is_file()
    }
    return _with_train(found, str(folder))


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield each article of a WikiText file, from the blank line before its title.

    A title is `` = Title = `` between blank lines (sections have more signs; formulas that look
    alike have no blank lines around them). Concatenated, the articles are the file.
    """
    article: list[str] = []
    for line, following in pairwise(chain(lines, ("",))):
        blank_around = article and not article[-1].strip() and not following.strip()
        if blank_around and is_title(line):
            blank = article.pop()
            if article:
                yield "".join(article)
            article = [blank]
        article.append(line)
    if article:
        yield "".join(article)


def is_title(line: str) -> bool:
    """Return whether ``line`` has the form of an article's title."""
    text = line.rstrip()
    return (
        len(text) > len(" =  =")
        and text.startswith(" = ")
        and text.endswith(" =")
        and not text.startswith(" = = ")
        and not text.endswith(" = =")
    )


def _from_path(path: str, run: RunContext) -> WikiTextData:
    files = _remote_files(path, run) if is_url(path) else local_files(path)
    return WikiTextData(files, description=f"WikiText files in {shown(path)}", source="path")


def _remote_files(url: str, run: RunContext) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in _ACCEPTED.items():
        for name in names:
            try:
                found[split] = fetch_url(f"{url.rstrip('/')}/{name}", run=run)
                break
            except FileNotFoundError:
                continue
    return _with_train(found, shown(url))


def _with_train(found: dict[str, Path], where: str) -> dict[str, Path]:
    if "train" not in found:
        raise DataError(
            f"{where} has no training file; looked for {', '.join(_ACCEPTED['train'])}",
            remedy="set data.wikitext.path to the folder that holds one of them",
        )
    return {split: found[split] for split in _ACCEPTED if split in found}


def _sample() -> WikiTextData:
    files = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
    return WikiTextData(
        {split: SAMPLE / name for split, name in files.items()},
        description=f"bundled sample ({_kilobytes()} KB)",
        source="sample",
    )


def _kilobytes() -> int:
    return round(sum(path.stat().st_size for path in SAMPLE.glob("*.txt")) / 1000)
