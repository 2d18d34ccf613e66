"""What this machine can be asked before anything is fetched or prepared: can it train the run?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec

from llmforge.distributed import Place, Team
from llmforge.errors import PeerFailed, Problem, RecipeError
from llmforge.interfaces import RunContext
from llmforge.recipe.generation_tests import read_tests
from llmforge.run.micro_batches import divide_batch
from llmforge.run.plan import Components, Plan


def require_ready(
    plan: Plan,
    components: Components,
    *,
    resolved: Mapping[str, object],
    team: Team,
    notice: Callable[[str], None],
    also: Callable[[], Sequence[Problem]] = tuple,
) -> None:
    """Refuse a run that some rank cannot train as the recipe asks. All ranks call it together.

    A device, a precision or a package that is missing and a batch that the ranks cannot share are
    found here, before data are downloaded or tokenised.

    Args:
        plan: the run.
        components: its components; each one is asked for its preflight.
        resolved: what ``auto`` became at an earlier start.
        team: the ranks; every one of them looks at its own machine.
        notice: told what stops nothing, but is worth knowing.
        also: further problems, asked of the leader only, and last: its trackers, which answer
            meanwhile.

    Raises:
        RecipeError: on the leader, with all that any rank found.
        PeerFailed: on the others, so that it is reported once.
    """
    run = plan.context(resolved=resolved, notice=notice, place=team.place)
    found = team.gather(_problems_here(plan, components, run))
    if team.place.is_leader:
        found[0] += also()
    if problems := _named(team.broadcast(found, patient=True)):
        error = RecipeError(problems, source=str(plan.recipe.source))
        if team.place.is_leader:
            raise error
        raise PeerFailed(error.reason, exit_code=error.exit_code) from error


def require_ready_here(plan: Plan, *, place: Place) -> None:
    """Refuse, on this rank alone, a run that it cannot train: before a checkpoint is fetched.

    :func:`require_ready` follows when the run is started, and passes on what components say.

    Raises:
        RecipeError: with all that was found.
    """
    run = plan.context(resolved={}, notice=lambda _: None, place=place)
    if problems := _problems_here(plan, Components(plan), run):
        raise RecipeError(problems, source=str(plan.recipe.source))


def require_all_ready(plan: Plan, *, place: Place, notice: Callable[[str], None]) -> None:
    """Refuse a run that lacks anything at all, its storage and trackers included; start nothing.

    Args:
        plan: the run.
        place: the rank that this process stands for.
        notice: told what stops nothing, but is worth knowing.

    Raises:
        RecipeError: with all that was found.
    """
    from llmforge.courier.notifications import notify_problems
    from llmforge.courier.preflight import ask_trackers
    from llmforge.courier.process import build_trackers
    from llmforge.remote import storage_problems

    run = plan.context(resolved={}, notice=notice, place=place)

    strict = plan.recipe.tracker.on_error == "raise"
    trackers = ask_trackers(build_trackers(plan.recipe), run, strict=strict)
    for text in trackers.notices:
        notice(text)
    problems = _problems_here(plan, Components(plan), run)
    problems += storage_problems(plan.recipe, run) + trackers.problems
    problems += notify_problems(plan.recipe.notify)
    if problems:
        raise RecipeError(problems, source=str(plan.recipe.source))


def _problems_here(plan: Plan, components: Components, run: RunContext) -> list[Problem]:
    """Return what stands in the way of ``run`` on this machine, at its rank."""
    problems: list[Problem] = []
    try:
        divide_batch(plan.recipe, {}, device="cpu", ranks=run.world_size, rank=run.rank)
    except RecipeError as error:
        problems += error.problems
    try:
        read_tests(plan.recipe.generation.tests)
    except RecipeError as error:
        problems += error.problems
    export = plan.recipe.export
    if export.at_end and export.format == "gguf" and find_spec("gguf") is None:
        problems.append(
            Problem(
                key="export.format",
                message="GGUF needs the gguf package",
                remedy="pip install 'llmforge-train[gguf]'",
            )
        )
    alone = plan.recipe.selections.get("adapter") and not export.merge
    if export.at_end and export.format == "gguf" and alone:
        problems.append(
            Problem(
                key="export.merge",
                message="an adapter alone has no form in GGUF",
                remedy="export.merge = true adds it to the model",
            )
        )
    return problems + components.preflight(run)


def _named(found: Sequence[Iterable[Problem]]) -> list[Problem]:
    """Return each problem once, with the ranks that have it unless all do."""
    ranks: dict[Problem, list[str]] = {}
    for rank, problems in enumerate(found):
        for problem in problems:
            ranks.setdefault(problem, []).append(str(rank))
    return [
        problem
        if len(having) == len(found) or having[0] == "0"
        else dataclasses.replace(problem, where=f"rank {', '.join(having)}")
        for problem, having in ranks.items()
    ]
