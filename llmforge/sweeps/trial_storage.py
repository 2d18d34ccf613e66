"""Opening the place that keeps a sweep's trials: a journal file, or a database by its URL."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llmforge.errors import UsageError
from llmforge.installed import install_command
from llmforge.settings import credential

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

PASSWORD = "FORGE_STUDY_PASSWORD"
"""Environment variable with the password of the database."""


def open_storage(url: str | None, *, journal: Path, wait: bool = False) -> BaseStorage:
    """Return Optuna's storage at ``url``, or over the file ``journal`` without one.

    Once it is open, a database that does not answer is waited for; with ``wait`` from the start.

    Raises:
        UsageError: the URL is none, its driver is missing, or the database does not answer.
        RunError: the database was waited for in vain.
    """
    from optuna import logging

    logging.set_verbosity(logging.WARNING)
    if url is None:
        from optuna.storages import JournalStorage

        from llmforge.sweeps.journal_file import JournalFile

        return JournalStorage(JournalFile(journal))
    return _database(url, wait=wait)


def _database(url: str, *, wait: bool) -> BaseStorage:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    from llmforge.sweeps.database_retry import Enduring, endure

    try:
        address = make_url(url)
        password = credential(PASSWORD)
        if password is not None:
            address = address.set(password=password)
        name, full = address.render_as_string(), address.render_as_string(hide_password=False)
        reach = partial(RDBStorage, full, engine_kwargs={"pool_pre_ping": True})
        database = endure(reach, name=name) if wait else reach()
        cached = get_storage(database)  # which remembers the trials that have ended
        return cast("BaseStorage", Enduring(cached, name=name))
    except ArgumentError as error:
        raise UsageError(
            f"sweep.study: '{url}' is not the address of a database",
            remedy="for example postgresql+psycopg://host/name, or sqlite:///study.db",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"sweep.study: the driver of {url} is not installed: {error}",
            remedy=f"{install_command('psycopg')} for postgresql+psycopg://",
        ) from error
    except SQLAlchemyError as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"sweep.study: {url} cannot be used: {first}",
            remedy=f"is it up? A password comes from {PASSWORD} or the driver's own settings",
        ) from error
