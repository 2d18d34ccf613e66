"""``forge checkpoints verify``: whether every file is what the manifest says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, emit_json, run_or_newest, run_root

if TYPE_CHECKING:
    from llmforge.rundir import RunDirectory


_SHOWN_STEPS = 5


@dataclass(frozen=True)
class Verified:
    """A checkpoint whose files were read; ``problems`` is empty when it is sound.

    ``run`` is empty of one that is in no run.
    """

    run: str
    step: int
    path: Path
    problems: list[str]


def verify(
    addresses: Annotated[
        list[str] | None,
        options.argument(
            "RUN_OR_CHECKPOINT",
            "Runs, or checkpoints as RUN@best, RUN@last, RUN@STEP or a path; absent: the newest "
            "run.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="The checkpoints of all runs.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Read every file of checkpoints and compare its hash with the manifest.

    The exit code is 1 when one is damaged.
    """
    from llmforge.errors import UsageError
    from llmforge.insight.inventory import run_id_of

    if every and addresses:
        raise UsageError("--all is all runs: name none beside it")
    found = []
    for path in dict.fromkeys(_paths(addresses or (), root, every=every)):
        found.append(Verified(run_id_of(path), _step(path), path, _problems(path)))
        if not as_json:
            _print(found[-1])
    damaged = [result for result in found if result.problems]
    remedies = {result.path: _remedy(result, damaged) for result in damaged}
    if as_json:
        emit_json([{**asdict(item), "remedy": remedies.get(item.path, "")} for item in found])
    else:
        _print_sum(len(found), len(damaged))
        for remedy in dict.fromkeys(remedies.values()):
            echo(remedy)
    if damaged:
        raise typer.Exit(1)


def _paths(addresses: Sequence[str], root: Path | None, *, every: bool) -> Iterator[Path]:
    """Yield the checkpoint directories that are meant, sound or not."""
    from llmforge.rundir.index import run_directories

    if every:
        for directory in run_directories(run_root(root)):
            yield from _of_run(directory)
        return
    if not addresses:
        yield from _of_run(run_or_newest(root, None))
    for address in addresses:
        yield from _of_address(address, root)


def _of_address(address: str, root: Path | None) -> Iterator[Path]:
    from llmforge.checkpoint import resolve
    from llmforge.checkpoint.format import step_name
    from llmforge.checkpoint.manifest import MANIFEST
    from llmforge.insight.inventory import checkpoints_of

    path = Path(address).expanduser()
    if path.is_dir() and ((path / MANIFEST).exists() or path.parent.name == "checkpoints"):
        yield path
        return
    name, at, which = address.rpartition("@")
    directory = run_or_newest(root, name if at else address)
    if not at:
        yield from _of_run(directory)
        return
    # A damaged one is found, too: resolve would refuse it.
    if which.isdecimal() and (path := directory.checkpoints / step_name(int(which))).is_dir():
        yield path
        return
    known = checkpoints_of(directory)
    meant = [info for info in known if info.is_best] if which == "best" else known[-1:]
    if which not in ("best", "last") or not meant:
        yield resolve(directory.checkpoints, which).path  # says what is wrong with the address
        return
    yield meant[-1].path


def _of_run(directory: RunDirectory) -> Iterator[Path]:
    from llmforge.checkpoint.format import step_directories

    yield from (path for _, path in step_directories(directory.checkpoints))


def _problems(path: Path) -> list[str]:
    from llmforge.checkpoint import verify as problems_of

    return problems_of(path)


def _step(path: Path) -> int:
    """Return the step of a checkpoint by its manifest, else by its name."""
    from llmforge.checkpoint import open_checkpoint
    from llmforge.errors import CheckpointError

    try:
        return open_checkpoint(path).step
    except CheckpointError:
        digits = path.name.removeprefix("step-")
        return int(digits) if digits.isdecimal() else 0


def _remedy(result: Verified, damaged: Sequence[Verified]) -> str:
    """Return what to do about a damaged checkpoint; ``damaged`` are all that were found."""
    from llmforge.insight.inventory import checkpoints_of
    from llmforge.run_root import root_option
    from llmforge.rundir import RunDirectory
    from llmforge.rundir.uploads import read_uploads

    path = result.path.absolute()
    if path.parent.name != "checkpoints":
        return f"{result.path}: copy it again from where it came"
    directory = RunDirectory(path.parents[1])
    here = f"{directory.id}{root_option(directory.root)}"
    upload = read_uploads(directory).get(result.step)
    if upload is not None and upload.state == "committed":
        return (
            f"{directory.id}: step {result.step:,} is in storage: delete {result.path}, then "
            f"forge runs pull {here} --checkpoint {result.step}"
        )
    wrong = {item.path.absolute() for item in damaged}
    sound = [
        str(info.step)
        for info in checkpoints_of(directory)
        if not info.problem and info.path.absolute() not in wrong
    ]
    if not sound:
        return (
            f"{directory.id}: no other checkpoint is sound; to train again: forge runs clear {here}"
        )
    return (
        f"{directory.id}: use another checkpoint ({_steps(sound)}); training resumes from the "
        "newest sound one by itself"
    )


def _steps(steps: Sequence[str]) -> str:
    shown = steps[-_SHOWN_STEPS:]
    return f"{'…, ' if len(shown) < len(steps) else ''}step {', '.join(shown)}"


def _print(result: Verified) -> None:
    from llmforge.cli.checkpoint_views import without_path

    where = result.run or result.path
    echo(f"{where}  step {result.step:,}  {'damaged' if result.problems else 'ok'}")
    for problem in result.problems:
        echo(f"  {without_path(problem, result.path)}")


def _print_sum(count: int, damaged: int) -> None:
    if not count:
        echo("there is no checkpoint to verify")
    elif damaged:
        echo(f"{damaged:,} of {count:,} damaged")
    else:
        echo(f"{count:,} checkpoint{'' if count == 1 else 's'}, all sound")
