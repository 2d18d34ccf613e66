"""Several processes that train one run: who this one is, and how it agrees with the others.

Nothing here imports torch before a team of several processes is joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from llmforge.distributed.environment import Place, find_place
    from llmforge.distributed.team import Alone, StopVote, Team, join, leader_first

__all__ = ["Alone", "Place", "StopVote", "Team", "find_place", "join", "leader_first"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Alone": "llmforge.distributed.team",
        "Place": "llmforge.distributed.environment",
        "StopVote": "llmforge.distributed.team",
        "Team": "llmforge.distributed.team",
        "find_place": "llmforge.distributed.environment",
        "join": "llmforge.distributed.team",
        "leader_first": "llmforge.distributed.team",
    },
)
