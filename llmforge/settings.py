"""Settings of the machine and the user: ``FORGE_*`` variables and ``.env``, never a recipe."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from llmforge.errors import UsageError


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmforge"


class Settings(BaseSettings):
    """What the environment or a ``.env`` file in the working directory sets."""

    model_config = SettingsConfigDict(
        env_prefix="FORGE_", env_file=".env", env_file_encoding="utf-8-sig", extra="ignore"
    )

    run_root: str | None = None
    """``FORGE_RUN_ROOT``: directory of all runs, instead of the recipe's ``run.root``."""
    cache: Path = Field(default_factory=_default_cache)
    """``FORGE_CACHE``: what may be shared between runs and deleted at any time."""
    offline: bool = Field(
        default=False, validation_alias=AliasChoices("FORGE_OFFLINE", "HF_HUB_OFFLINE")
    )
    """``FORGE_OFFLINE`` (or ``HF_HUB_OFFLINE``): use no network."""


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read once; ``.env`` comes into the environment with it.

    Raises:
        UsageError: a variable has a value that makes no sense, or ``.env`` cannot be read.
    """
    try:
        load_environment()
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(_described(item) for item in error.errors(include_url=False))
        raise UsageError(wrong, remedy="correct it in the environment or in .env") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{Path('.env').absolute()} cannot be read: {error}",
            remedy="it is a text file in UTF-8 with a line NAME=VALUE for each setting",
        ) from error


def load_environment() -> None:
    """Put what ``.env`` in the working directory says into the environment of this process.

    So whoever looks for a credential there finds it: the packages of services, and the courier.
    What the environment has already stays.
    """
    if Path(".env").exists():
        from dotenv import load_dotenv  # only where there is a file to read

        load_dotenv(".env", encoding="utf-8-sig")


def credential(name: str) -> str | None:
    """Return a secret from the environment, else from ``.env`` in the working directory.

    Args:
        name: the variable's name, as the service's own tools know it.
    """
    load_environment()
    return os.environ.get(name) or None


def _described(item: ErrorDetails) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    name = name if name.isupper() else f"FORGE_{name.upper()}"
    message = item["msg"].removeprefix("Input ")
    return f"{name} = {item['input']!r} {message}"
