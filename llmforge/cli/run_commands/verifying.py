"""``forge runs verify``: whether a run's files are whole and agree, or a certificate holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, emit_json, run_or_newest


def verify(
    run: Annotated[
        str | None,
        options.argument(
            "RUN_OR_CERTIFICATE",
            "A run id, or the beginning of one; absent: the newest run. Or a certificate of "
            "'forge prove-resume'.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Check the files of a run: records agree, steps ascend, checkpoints have their hashes.

    Of a certificate its seal, its verdict and the hashes of the runs that were kept. Exit codes: 1
    something is wrong.
    """
    import dataclasses

    from llmforge.errors import EXIT_FAILURE
    from llmforge.insight.verification import verify_run

    if run is not None and run.endswith(".json"):
        _verify_certificate(Path(run), as_json=as_json)
        return
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


def _verify_certificate(path: Path, *, as_json: bool) -> None:
    import dataclasses

    from llmforge.errors import EXIT_FAILURE
    from llmforge.proof.certificate import verify_certificate

    problems = verify_certificate(path)
    if as_json:
        found = [dataclasses.asdict(problem) for problem in problems]
        emit_json({"certificate": path, "ok": not problems, "problems": found})
    else:
        out = console()
        for problem in problems:
            out.print(f"  {problem}", style="red", soft_wrap=True)
        out.print(f"{path}: {'does not hold' if problems else 'the certificate holds'}")
    if problems:
        raise typer.Exit(EXIT_FAILURE)
