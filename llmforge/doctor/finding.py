"""What a check found: one line about one thing, whether it is well, and what to do about it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: ``group.name``, the same in every version, for scripts.
        status: ``problem``: a run cannot start, or does not do what its recipe says; ``warning``:
            it runs, but worse than it could.
        message: what was found, without secrets.
        remedy: what to type or change; empty where there is nothing to do.
        concerns: what needs it: ``tracker:wandb``, ``package:s3fs`` or ``gpu``; empty for what
            every run needs.
    """

    check: str
    status: Status
    message: str
    remedy: str = ""
    concerns: str = ""

    @property
    def group(self) -> str:
        """The group of checks it belongs to."""
        return self.check.partition(".")[0]

    def weighed(self, needs: Set[str] | None) -> Finding:
        """Return it as it matters to a recipe: a problem of what the recipe lacks is a warning.

        Args:
            needs: what the recipe needs, as :attr:`concerns` names it; None without a recipe.
        """
        spared = needs is not None and self.concerns and self.concerns not in needs
        return replace(self, status="warning") if self.status == "problem" and spared else self


def ok(check: str, message: str, *, remedy: str = "") -> Finding:
    """Return that all is well; ``remedy`` is how to have more of it."""
    return Finding(check=check, status="ok", message=message, remedy=remedy)


def warning(check: str, message: str, *, remedy: str, concerns: str = "") -> Finding:
    """Return what runs survive."""
    return Finding(check=check, status="warning", message=message, remedy=remedy, concerns=concerns)


def problem(check: str, message: str, *, remedy: str, concerns: str = "") -> Finding:
    """Return what runs do not survive, or not as their recipe says."""
    return Finding(check=check, status="problem", message=message, remedy=remedy, concerns=concerns)
