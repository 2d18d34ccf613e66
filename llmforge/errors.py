"""Errors that reach a user, and the exit code each one ends the process with.

Every error a user can cause or meet derives from :class:`ForgeError`; the command line prints its
message without a traceback. Anything else that escapes is a defect of llmforge itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_LOCKED = 3
EXIT_DRIFTED = 4
EXIT_INTERRUPTED = 75


_LONGEST = 600
_NUMBERED = re.compile(r"^\[Errno -?\d+\] ")


def _shortened(text: str) -> str:
    """Return ``text`` without the middle of a value that would fill the screen."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 100]}[... {len(text) - _LONGEST:,} more ...]{text[-100:]}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a recipe or with what it needs.

    ``key`` is the dotted recipe key (empty when no single key is to blame), ``where`` the place it
    was written (``recipe.toml:12`` or ``--set``), ``remedy`` what to type or install.
    """

    message: str
    key: str = ""
    where: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, _shortened(self.key)) if part)
        message = _shortened(self.message)
        text = f"{head}: {message}" if head else message
        return f"{text} ({self.remedy})" if self.remedy else text


class ForgeError(Exception):
    """Base of every error meant for the user; ``remedy`` says what to do about it."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def reason(self) -> str:
        """What is wrong, in one line: what ``run.json`` and trackers say of a run that failed."""
        return self.message

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


def plain_reason(error: BaseException) -> str:
    """Return what an error of a library or the system says, in one line and without its class.

    The class stays where there is nothing else, or a single word that says nothing alone.
    """
    if isinstance(error, OSError) and error.strerror:
        place = f": '{error.filename}'" if error.filename else ""
        return f"{error.strerror}{place}"
    text = _NUMBERED.sub("", " ".join(str(error).split()))
    if " " in text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class UsageError(ForgeError):
    """A command line that cannot be carried out as it stands."""

    exit_code = EXIT_USAGE


class RecipeError(ForgeError):
    """A recipe that cannot be used; carries every :class:`Problem` found in it."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[Problem], *, source: str = "") -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{source}: {count}" if source else count)
        self.problems = tuple(problems)

    @property
    def reason(self) -> str:
        """Every problem, without its remedy."""
        return "; ".join(str(replace(problem, remedy="")) for problem in self.problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {problem}" for problem in self.problems)])


class PluginError(ForgeError):
    """A plugin that cannot be loaded or breaks the contract of its kind."""


class DeliveryLost(ForgeError):
    """What a tracker took has not arrived and never will: the courier tells it again."""


class DataError(ForgeError):
    """Data that is missing, unreadable or not the data the run was started with."""


class CheckpointError(ForgeError):
    """A checkpoint that is missing, incomplete or corrupt."""


class ExportError(ForgeError):
    """A model, tokenizer or adapter that has no form in the format asked for."""


class DeployError(ForgeError):
    """A model that could not be deployed; what was deployed before is as it was."""


class StorageError(ForgeError):
    """A read or write outside the run directory that did not succeed."""


class StorageStalled(StorageError):
    """A call to storage that was given up because nothing moved."""


class CommitConflict(StorageError):
    """Storage holds another checkpoint of this run and step; it stays as it is."""


class RunError(ForgeError):
    """A run that cannot start, continue or be found."""


class RunLockedError(RunError):
    """Another process is training this run."""

    exit_code = EXIT_LOCKED


class TrainingError(RunError):
    """Training that had to stop: a loss that is not finite, memory that does not suffice."""


class Interrupted(ForgeError):
    """The user or the scheduler asked the process to stop; what was trained is saved."""

    exit_code = EXIT_INTERRUPTED


class RankLost(ForgeError):
    """Another process of the run cannot be reached: it is gone, or does not answer."""


class PeerFailed(RunError):
    """Another process of the run failed or is gone; its own message has been shown.

    ``exit_code`` is that of the failure; ``shown`` whether people have been told.
    """

    def __init__(
        self, message: str, *, remedy: str = "", exit_code: int = EXIT_FAILURE, shown: bool = True
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code
        self.shown = shown
