"""The tokenizer of a pre-trained model: its ``tokenizer.json``, else made of older files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from llmforge import RunContext
from llmforge.errors import DataError
from llmforge_plugins._pretrained import Source, find_source, read_config
from llmforge_plugins.tokenizers._fast import FastTokenizer, read_tokenizer, text_of
from llmforge_plugins.tokenizers._saved import read_json

_TOKENIZER = "tokenizer.json"
_OLDER = ("vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "vocab.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NAMED = ("eos_token", "bos_token", "mask_token")


def model_table(run: RunContext) -> Mapping[str, Any] | None:
    """Return ``path`` and ``revision`` of the recipe's model; None when it is not a published one.

    The path may be called ``init_from``, as of the model ``transformer``.
    """
    models = run.config["model"]
    table = models.get(models["name"], {})
    path = table.get("path") or table.get("init_from")
    return None if path is None else {"path": path, "revision": table.get("revision", "main")}


def build(options: Any, run: RunContext) -> FastTokenizer:
    """Return the tokenizer of the recipe's model.

    Raises:
        DataError: the model has none, or it cannot be read.
        PretrainedError: the model is not there or cannot be reached.
    """
    table = model_table(run)
    if table is None:
        raise DataError(
            f"the model '{run.config['model']['name']}' has no path, so no tokenizer comes with it",
            remedy="choose another tokenizer, such as bpe, or a pre-trained model",
        )
    source = find_source(table["path"], revision=table["revision"], run=run)
    read_config(source)  # what is wrong with the whole model is said first
    settings = _settings(source)
    if (path := source.file(_TOKENIZER)) is not None:
        inner = read_tokenizer(path)
    else:
        inner, found = _converted(source)
        settings = {**found, **settings}
    for name in _NAMED:
        settings[name] = text_of(settings.get(name)) or _by_id(source, inner, name)
    end_of_text = options.end_of_text or settings["eos_token"]
    return FastTokenizer(inner, end_of_text=end_of_text, config=settings)


def _settings(source: Source) -> dict[str, Any]:
    """Return what is said of the tokenizer beside it: special tokens and the chat template."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path := source.file(name)) is not None:
            found |= {key: value for key, value in read_json(path).items() if value is not None}
    # ids and classes of tokens are in tokenizer.json, which alone counts
    found.pop("added_tokens_decoder", None)
    template = found.get("chat_template")
    if isinstance(template, list):
        named = {str(item.get("name")): item.get("template") for item in template}
        template = named.get("default", next(iter(named.values()), None))
    if (path := source.file("chat_template.jinja")) is not None:
        template = path.read_text(encoding="utf-8")
    found["chat_template"] = template if isinstance(template, str) else None
    return found


def _by_id(source: Source, inner: tokenizers.Tokenizer, name: str) -> str | None:
    """Return a special token that only ``config.json`` names, by its id."""
    number = read_config(source).get(f"{name}_id")
    number = number[0] if isinstance(number, list) and number else number
    return inner.id_to_token(number) if isinstance(number, int) else None


def _converted(source: Source) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the tokenizer in older files, such as vocab.json and merges.txt, and its tokens."""
    paths = [path for name in _OLDER if (path := source.file(name)) is not None]
    if not paths:
        raise DataError(
            f"{source} has no tokenizer: neither {_TOKENIZER} nor {', '.join(_OLDER)}",
            remedy='copy the tokenizer\'s files into the folder, or set tokenizer.name = "hf" '
            "and its source",
        )
    for name in _SETTINGS:
        source.file(name)
    try:
        import transformers
    except ImportError as error:
        raise DataError(
            f"{source} has no {_TOKENIZER}; reading {paths[0].name} needs the transformers package",
            remedy="pip install 'llmforge-train[hf]'",
        ) from error
    transformers.logging.set_verbosity_error()
    folder: Path = paths[0].parent
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        inner = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # each tokenizer class stumbles over bad files in its own way
        raise DataError(
            f"the tokenizer in {folder} cannot be read: {str(error).strip().splitlines()[0]}",
            remedy="download it again, or save it with transformers as a fast tokenizer",
        ) from error
    return inner, {name: getattr(loaded, name, None) for name in _NAMED}
