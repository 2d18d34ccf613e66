"""``forge deploy``: a model to the hub, a registry or storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import echo

if TYPE_CHECKING:
    from llmforge.deploy import Outcome, Plan, Source
    from llmforge.errors import ForgeError, RecipeError
    from llmforge.recipe import Recipe

_EXPORT = "The folder that is deployed"


def deploy(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="RUN, RUN@best, RUN@STEP, the path of a checkpoint or of an exported folder.",
            show_default=False,
        ),
    ],
    to: Annotated[
        list[str] | None,
        options.option(
            "--to",
            metavar="ADDRESS",
            help="hf://OWNER/NAME, mlflow:NAME, a folder in storage such as "
            "s3://bucket/models/tiny, or a path that begins with /, ./, ../ or ~; without it "
            "deploy.to of the recipe. Repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List what would be sent where, and change nothing."),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, not private.")
    ] = False,
    archive: Annotated[
        str | None,
        options.option(
            "--archive", metavar="KIND", help="none or tar.gz: how the files are put into storage."
        ),
    ] = None,
    checkpoint: options.WhichCheckpoint = None,
    layout: Annotated[
        str | None,
        options.option(
            "--format",
            metavar="FORMAT",
            help="hf (without it), safetensors or gguf, as in 'forge export'.",
            panel=_EXPORT,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Deploy the whole model, with the weights of an adapter added to it.",
            rich_help_panel=_EXPORT,
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        options.option(
            "--dtype",
            metavar="FORMAT",
            help="fp32 (without it), bf16 or fp16; for gguf also q8_0.",
            panel=_EXPORT,
        ),
    ] = None,
    licence: Annotated[
        str | None,
        options.option(
            "--licence",
            "--license",
            metavar="NAME",
            help="Licence for the model card, such as mit; without it that of the pre-trained "
            "model, where that is known.",
            panel=_EXPORT,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        options.option(
            "--recipe", metavar="RECIPE", help="Take deploy.* from RECIPE, not from the run."
        ),
    ] = None,
    assignments: options.Assignments = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Deploy a model to a hub, a registry or storage.

    That is the Hugging Face hub, the model registry of MLflow, a folder in any storage, or what
    plugins add.

    Of a run or checkpoint the folder that 'forge export' writes is deployed; an exported folder is
    deployed as it is. Every address is tried. Readers find the model that was there before, or the
    new one, and never a part of it; the same command again continues, and sends only what is
    missing. What was sent is verified by its hashes.

    Repositories are private unless --public says otherwise. Logins come from the environment or
    .env, or from where the services' own tools keep them.
    """
    from llmforge.cli.common import emit_json, error_console
    from llmforge.deploy import deploy as deploy_to
    from llmforge.deploy import preview
    from llmforge.settings import settings

    settings()  # brings .env into the environment, where services look for logins
    choices = {
        "to": [_as_url(address) for address in to] if to else None,
        "private": False if public else None,
        "archive": archive,
        "format": layout,
        "merge": merge or None,
        "dtype": dtype,
        "licence": licence,
    }
    source, table = _read(run, checkpoint, choices, recipe, assignments or [], root=root)
    console = error_console()
    if dry_run:
        count = len(table.deploy.to)
        plan = preview(source, table.deploy.to, table)
        if as_json:
            emit_json(_plan_json(plan))
        else:
            _print_plan(source, plan)
        failed = sum(isinstance(item, Exception) for item in plan.outlooks.values())
        _end_with(failed, f"of {count} deployments would fail")
        return
    outcomes = deploy_to(
        source,
        table.deploy.to,
        table,
        notice=lambda text: console.print(text, style="yellow"),
        on_outcome=(lambda _: None) if as_json else _print_outcome,
    )
    if as_json:
        emit_json([_outcome_json(outcome) for outcome in outcomes])
    failed = sum(outcome.receipt is None for outcome in outcomes)
    _end_with(failed, f"of {len(outcomes)} deployments failed")


def _read(
    run: str,
    checkpoint: str | None,
    choices: dict[str, Any],
    recipe: str | None,
    assignments: list[str],
    *,
    root: Path | None,
) -> tuple[Source, Recipe]:
    """Return what is deployed and the recipe whose ``[deploy]`` table counts."""
    from llmforge.cli.common import error_console, run_root
    from llmforge.deploy import ExportChoices, find_source
    from llmforge.errors import RecipeError, UsageError
    from llmforge.recipe import Override, load_recipe, parse_set

    if checkpoint is not None and "@" in run:
        raise UsageError(
            f"'{run}' and --checkpoint both say which checkpoint", remedy="give only one of them"
        )
    address = run if checkpoint is None else f"{run}@{checkpoint}"
    overrides = [parse_set(text) for text in assignments]
    overrides += [
        Override(("deploy", key), value, origin=f"--{key}")
        for key, value in choices.items()
        if value is not None
    ]
    found = find_source(address, ExportChoices(), root=run_root(root), say=error_console().print)
    unneeded = ("tracker", "callback", "sweep")
    without = [Override((name,), None, origin="") for name in unneeded]
    try:
        table = load_recipe(recipe or found.recipe, overrides=[*without, *overrides])
    except RecipeError as error:
        raise _of_options(error, {f"--{key}" for key in choices}) from error
    keys = table.deploy
    asked = ExportChoices(
        layout=keys.format, merge=keys.merge, dtype=keys.dtype, licence=keys.licence
    )
    if asked != ExportChoices():
        found = find_source(address, asked, root=run_root(root))
    return found, table


def _as_url(address: str) -> str:
    """Return an address, a path of this machine as the URL of its folder."""
    first = address.split("/")[0]
    if address.startswith("/") or first in (".", "..") or first.startswith("~"):
        return f"file://{Path(address).expanduser().resolve()}"
    return address


def _of_options(error: RecipeError, options: set[str]) -> ForgeError:
    """Return an error without the recipe's name if only options of the command are to blame."""
    from dataclasses import replace

    from llmforge.errors import UsageError

    if any(problem.where not in options for problem in error.problems):
        return error
    return UsageError("\n  ".join(str(replace(item, key="")) for item in error.problems))


def _end_with(failed: int, what: str) -> None:
    """End the command with an error if some of the deployments failed."""
    from llmforge.errors import DeployError

    if failed:
        raise DeployError(
            f"{failed} {what}",
            remedy="correct that and run the same command again: it sends only what is missing",
        )


def _print_outcome(outcome: Outcome) -> None:
    if outcome.receipt is None:
        echo(_with_address(outcome.to, outcome.error), err=True)
        return
    sent = len(outcome.receipt.sent)
    done = f"{sent} file{'' if sent == 1 else 's'} sent and verified"
    state = "there already" if outcome.unchanged else done
    echo(f"{outcome.to}: {state}, {outcome.receipt.revision}")
    if outcome.receipt.link:
        echo(f"  {outcome.receipt.link}")


def _print_plan(source: Source, plan: Plan) -> None:
    from llmforge.checkpoint import size_text

    total = sum(file.size for file in plan.files.values())
    echo(f"{source.title}: {len(plan.files)} files, {size_text(total)}")
    width = max((len(name) for name in plan.files), default=0)
    for name, file in plan.files.items():
        echo(f"  {name:<{width}}  {size_text(file.size):>10}  {file.sha256[:12]}")
    for address, outlook in plan.outlooks.items():
        if isinstance(outlook, Exception):
            echo(_with_address(address, outlook), err=True)
            continue
        if outlook.revision:
            what = f"there already, {outlook.revision}"
        else:
            what = f"{len(outlook.send)} to send, {len(outlook.delete)} to delete"
        parts = [what, outlook.visible, outlook.note]
        echo(f"{address}: {', '.join(part for part in parts if part)}")
        for sign, names in (("+", outlook.send), ("-", outlook.delete)):
            for name in names:
                echo(f"  {sign} {name}")
    echo("nothing was changed (--dry-run)")


def _with_address(address: str, error: object) -> str:
    """Return the message of an error without secrets; most begin with the address already."""
    from llmforge.redaction import redact

    text = redact(str(error))
    return text if address in text else f"{address}: {text}"


def _plan_json(plan: Plan) -> dict[str, Any]:
    told = {
        address: {"error": _with_address(address, outlook)}
        if isinstance(outlook, Exception)
        else vars(outlook)
        for address, outlook in plan.outlooks.items()
    }
    return {"files": {name: vars(file) for name, file in plan.files.items()}, "to": told}


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    if outcome.receipt is None:
        return {"to": outcome.to, "error": _with_address(outcome.to, outcome.error)}
    return {"to": outcome.to, "unchanged": outcome.unchanged, **vars(outcome.receipt)}
