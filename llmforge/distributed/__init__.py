"""Several processes that train one run: who this one is, and how it agrees with the others.

Nothing here imports torch before a team of several processes is joined.
"""

from llmforge.distributed.environment import Place, find_place
from llmforge.distributed.team import Alone, StopVote, Team, join, leader_first

__all__ = ["Alone", "Place", "StopVote", "Team", "find_place", "join", "leader_first"]
