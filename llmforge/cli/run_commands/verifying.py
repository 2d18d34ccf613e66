"""``forge runs verify``: whether a run's files are whole and agree."""

from __future__ import annotations

import typer

from llmforge.cli import options
from llmforge.cli.common import console, emit_json, run_or_newest


def verify(
    run: options.RunOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Check the files of a run: records agree, steps ascend, checkpoints have their hashes.

    Exit codes: 1 something is wrong.
    """
    import dataclasses

    from llmforge.errors import EXIT_FAILURE
    from llmforge.insight.verification import verify_run

    directory = run_or_newest(root, run)
    checks = verify_run(directory)
    wrong = sum(len(check.problems) for check in checks)
    if as_json:
        found = [dataclasses.asdict(check) for check in checks]
        emit_json({"id": directory.id, "ok": not wrong, "checks": found})
    else:
        out = console()
        for check in checks:
            said = "; ".join(check.problems) or check.said
            state = "wrong" if check.problems else "ok"
            style = "red" if check.problems else "green"
            out.print(f"  {check.name:<12} {state:<6} {said}", style=style if wrong else "")
        count = f"{wrong} problem{'' if wrong == 1 else 's'}"
        out.print(f"{directory.id}: {count if wrong else 'everything agrees'}")
    if wrong:
        raise typer.Exit(EXIT_FAILURE)
