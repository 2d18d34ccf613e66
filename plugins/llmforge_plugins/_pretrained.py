"""Where a pre-trained model is: a folder, a name of the zoo, or a repository on the hub.

Shared by the kinds ``model`` and ``tokenizer``; it imports no heavy package.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge import RunContext
from llmforge.errors import ForgeError
from llmforge_plugins._zoo import ZOO

CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_TIMEOUT_SECONDS = 5.0
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
ABSENT = object()
"""What the cache says of a file that the hub did not have at a commit."""
_LONGEST = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


class PretrainedError(ForgeError):
    """A pre-trained model that is not there, cannot be reached, or is not what is needed."""


@dataclass(frozen=True)
class Folder:
    """A pre-trained model on this machine.

    Attributes:
        path: the folder.
    """

    path: Path
    commit: str | None = None

    def file(self, name: str) -> Path | None:
        """Return the path of one of its files, None when it has no such file."""
        found = self.path / name
        return found if found.is_file() else None

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Repository:
    """A pre-trained model on the hub; its files come into HF's cache when they are asked for.

    Attributes:
        name: for example ``openai-community/gpt2``.
        revision: branch, tag or commit.
        offline: ask nobody.
        commit: what the revision is, once a file was found.
        asked: what the recipe calls it.
    """

    name: str
    revision: str
    offline: bool
    commit: str | None = None
    asked: str = ""

    def file(self, name: str) -> Path | None:
        """Return the path of one of its files, None when it has no such file.

        Raises:
            PretrainedError: the hub cannot be asked, or has no such repository or revision.
        """
        from llmforge_plugins._hub import MissingError, UnreachableError, fetch

        if self.commit is not None and self._cached(name) is ABSENT:
            return None
        try:
            found = fetch(
                self.name,
                name,
                revision=self.commit or self.revision,
                kind="model",
                offline=self.offline,
                timeout=_TIMEOUT_SECONDS,
            )
        except MissingError as error:
            if name != CONFIG:
                return None
            if self._is_a_guess:
                raise _nowhere(self.asked, "the hub has no such model") from error
            raise PretrainedError(
                f"there is no {CONFIG} in {self} on the hub ({error})",
                remedy="check name and revision; HF_TOKEN gives access to gated models",
            ) from error
        except UnreachableError as error:
            # whoever was online to fetch the configuration has fetched all there is
            if name != CONFIG and isinstance(self._cached(CONFIG), str):
                return None
            if self._is_a_guess:
                raise _nowhere(self.asked, f"the hub cannot be asked: {error}") from error
            raise PretrainedError(
                f"{name} of {self} is neither a local file nor in the cache, "
                f"and the hub cannot be asked: {error}",
                remedy="give the path of a folder, set HF_ENDPOINT to a mirror, or run once with "
                "internet: the files stay in HF_HOME",
            ) from error
        if self.commit is None and _COMMIT.fullmatch(found.parent.name):
            self.commit = found.parent.name
        return found

    @property
    def _is_a_guess(self) -> bool:
        """Whether a single word is no name of the zoo: few models of the hub are called so."""
        return self.asked not in ZOO and "/" not in self.asked

    def _cached(self, name: str) -> object:
        """Return the path of a file in HF's cache, ABSENT if there is none, None if not known."""
        import huggingface_hub
        from huggingface_hub.file_download import _CACHED_NO_EXIST

        revision = self.commit or self.revision
        found = huggingface_hub.try_to_load_from_cache(
            self.name, name, revision=revision, repo_type="model"
        )
        return ABSENT if found is _CACHED_NO_EXIST else found

    def __str__(self) -> str:
        return f"'{self.name}' at revision '{self.commit or self.revision}'"


Source = Folder | Repository


def find_source(path: str, *, revision: str, run: RunContext) -> Source:
    """Return where the model is that a recipe calls ``path``.

    A run that was started uses the commit it was started with.

    Raises:
        PretrainedError: it can be neither a folder nor a name on the hub.
    """
    if problem := path_problem(path):
        raise PretrainedError(problem[0], remedy=problem[1])
    folder = Path(path).expanduser()
    if folder.is_dir():
        return Folder(folder)
    known = ZOO.get(path)
    recorded = run.resolved.get("model", {})
    name = known.repository if known else path
    commit = recorded.get("commit") if recorded.get("repository") == name else None
    return Repository(name, commit or revision, run.offline, commit, asked=path)


def path_problem(path: str) -> tuple[str, str] | None:
    """Return what is wrong with a ``path`` on this machine and what to do; None when it may do."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / CONFIG).is_file():
            return None
        return _no_config(folder)
    if path in ZOO or (_REPOSITORY.fullmatch(path) and not folder.is_file()):
        return None
    if folder.is_file():
        return f"{folder} is a file", "give the folder it is in"
    where = "" if folder.is_absolute() else f" (looked in {Path.cwd()})"
    return f"there is no folder {folder}{where}", _remedy(path)


def _no_config(folder: Path) -> tuple[str, str]:
    """Return what a folder without ``config.json`` is, and what to do."""
    if (folder / _ADAPTER).is_file():
        return (
            f"the folder {folder} has an adapter alone ({_ADAPTER}), without the model it changes",
            "give a whole model: forge export RUN --to DIR --merge writes it with the adapter",
        )
    if any(folder.glob("*.gguf")):
        return (
            f"the folder {folder} has a GGUF file, which is not read here",
            "forge export RUN --to DIR writes what is",
        )
    return (
        f"the folder {folder} has no {CONFIG}: it is not a saved Hugging Face model",
        "give the folder that save_pretrained wrote",
    )


def _nowhere(path: str, hub: str) -> PretrainedError:
    """Return the error of a name that was looked for in each place, the hub last."""
    return PretrainedError(
        f"'{path}' was not found: there is no folder {Path(path).absolute()}, 'forge models list' "
        f"has no such name, and {hub}",
        remedy=_remedy(path),
    )


def _remedy(path: str) -> str:
    """Return what may be given in place of ``path``, the nearest name first."""
    near = _nearest(path)
    hint = f"did you mean '{near}'? " if near else ""
    return (
        f"{hint}give the folder of a saved model, a name of 'forge models list' such as "
        f"{next(iter(ZOO))}, or OWNER/NAME of the hub"
    )


def _nearest(path: str) -> str | None:
    """Return the zoo's name or the folder with a model that is most like ``path``."""
    parent = Path(path).expanduser().parent
    try:
        folders = [item.name for item in parent.iterdir() if (item / CONFIG).is_file()]
    except OSError:
        folders = []
    known = {str(parent / name) if "/" in path else name: name for name in folders}
    found = difflib.get_close_matches(Path(path).name, [*known.values(), *ZOO], n=1)
    if not found:
        return None
    return next((full for full, name in known.items() if name == found[0]), found[0])


def read_config(source: Source) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Raises:
        PretrainedError: it cannot be had, or is not a JSON object.
    """
    path = source.file(CONFIG)
    assert path is not None, "a missing config.json is an error of its own"
    content = _read(path)
    if content is None:
        raise PretrainedError(
            f"{path} is not a JSON object", remedy="restore the file, or save the model again"
        )
    return content


def known_longest(path: str) -> int | None:
    """Return the longest sequence of a model if that can be told without the network."""
    if path in ZOO and not Path(path).expanduser().is_dir():
        return ZOO[path].context
    content = _read(Path(path).expanduser() / CONFIG)
    return None if content is None else longest_sequence(content)


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Return the longest sequence that a ``config.json`` allows; None when it has no limit."""
    nested = config.get("text_config")
    for table in (config, nested if isinstance(nested, dict) else {}):
        for key in _LONGEST:
            if isinstance(value := table.get(key), int) and value > 0:
                return value
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
