"""Finding a ready tokenizer: a file, a folder, or a repository on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llmforge import RunContext
from llmforge.errors import DataError
from llmforge_plugins._hub import MissingError, UnreachableError, fetch
from llmforge_plugins.tokenizers._fast import FastTokenizer, read_tokenizer, text_of
from llmforge_plugins.tokenizers._saved import read_json

_TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_TIMEOUT_SECONDS = 5.0
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def build(options: Any, run: RunContext) -> FastTokenizer:
    """Return the tokenizer that ``source`` names.

    Raises:
        DataError: it is not there, cannot be reached or cannot be read.
    """
    problem = local_problem(options.source)
    if problem is not None:
        raise DataError(f"tokenizer.hf.source: {problem}")
    path = Path(options.source).expanduser()
    if path.is_dir():
        tokenizer, config = path / _TOKENIZER, path / _CONFIG
    elif path.is_file():
        tokenizer, config = path, path.parent / _CONFIG
    else:
        tokenizer, config = _from_hub(options, run)
    content = read_json(config) if config.exists() else {}
    end_of_text = options.end_of_text or text_of(content.get("eos_token"))
    return FastTokenizer(read_tokenizer(tokenizer), end_of_text=end_of_text, config=content)


def local_problem(source: str) -> str | None:
    """Return what is wrong with a ``source`` on this machine; None when it may be on the hub."""
    path = Path(source).expanduser()
    if path.is_file() or (path.is_dir() and (path / _TOKENIZER).is_file()):
        return None
    if path.is_dir():
        return f"the folder {path} has no {_TOKENIZER}"
    if source.endswith(".json") or not _REPOSITORY.fullmatch(source):
        return f"there is no file or folder {path} (looked in {Path.cwd()})"
    return None


def _from_hub(options: Any, run: RunContext) -> tuple[Path, Path]:
    """Return the paths of the two files; the second need not exist."""
    where = f"'{options.source}' at revision '{options.revision}'"

    def get(name: str) -> Path:
        return fetch(
            options.source,
            name,
            revision=options.revision,
            kind="model",
            offline=run.offline,
            timeout=_TIMEOUT_SECONDS,
        )

    try:
        tokenizer = get(_TOKENIZER)
    except MissingError as error:
        raise DataError(
            f"tokenizer.hf.source: no {_TOKENIZER} in {where} on the hub ({error})",
            remedy="check the name; a slow tokenizer must be saved as a fast one first",
        ) from error
    except UnreachableError as error:
        raise DataError(
            f"tokenizer.hf.source: neither a file or folder of that name nor the hub has "
            f"{_TOKENIZER} of {where}: {error}",
            remedy="give a local folder or tokenizer.json, or set HF_ENDPOINT to a mirror",
        ) from error
    try:
        return tokenizer, get(_CONFIG)
    except (MissingError, UnreachableError):
        run.notice(f"tokenizer {where} has no {_CONFIG}: its end of text is what end_of_text says")
        return tokenizer, tokenizer.parent / _CONFIG
