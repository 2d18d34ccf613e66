"""``forge``: the command line. Light by construction: a command's module loads when it is used."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup

from llmforge.cli.plain_values import take_plain_values
from llmforge.cli.refused_files import as_refusal
from llmforge.errors import EXIT_OK, ForgeError, PeerFailed, PluginError, UsageError
from llmforge.printable import printable
from llmforge.progress import show_on
from llmforge.redaction import redact, redact_tracebacks
from llmforge.streams import OutputClosed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

_EXPERIMENTS = "Experiments"
_PREPARING = "Preparing"
PLUGINS_PANEL = "Commands of plugins"
"""Heads the commands of plugins in the help."""


@dataclass(frozen=True)
class Command:
    """A command before it is imported: what the help says of it, and where it is."""

    name: str
    target: str
    help: str
    panel: str


OWN = {
    command.name: command
    for command in (
        Command(
            "train",
            "llmforge.cli.train:train",
            "Train RECIPE; the same command again resumes it, or says it is done.",
            _EXPERIMENTS,
        ),
        Command(
            "sweep",
            "llmforge.cli.sweep:app",
            "Search the space of a recipe: forge sweep RECIPE starts or resumes it.",
            _EXPERIMENTS,
        ),
        Command(
            "generate",
            "llmforge.cli.generate:generate",
            "Continue or answer prompts with a trained model.",
            _EXPERIMENTS,
        ),
        Command(
            "chat",
            "llmforge.cli.chat:chat",
            "Talk with a model that was trained on conversations.",
            _EXPERIMENTS,
        ),
        Command(
            "serve",
            "llmforge.cli.serve:serve",
            "Serve a trained model over HTTP, in the form of OpenAI's API.",
            _EXPERIMENTS,
        ),
        Command(
            "evaluate",
            "llmforge.cli.evaluate:evaluate",
            "Measure a checkpoint over a whole split: loss, and the recipe's metrics.",
            _EXPERIMENTS,
        ),
        Command(
            "prove-resume",
            "llmforge.cli.prove_resume:prove_resume",
            "Prove that RECIPE resumes exactly: kill its run, resume it, compare the result.",
            _EXPERIMENTS,
        ),
        Command(
            "drift",
            "llmforge.cli.drift:drift",
            "Say how far DATA is from what a model was trained on.",
            _EXPERIMENTS,
        ),
        Command(
            "runs",
            "llmforge.cli.runs:app",
            "List, inspect, compare, continue and delete runs.",
            _EXPERIMENTS,
        ),
        Command(
            "monitor",
            "llmforge.cli.monitor:monitor",
            "Watch runs while they train: progress, losses, speed, checkpoints, uploads, log "
            "lines.",
            _EXPERIMENTS,
        ),
        Command(
            "ui",
            "llmforge.cli.ui:app",
            "Look at runs in a browser: live curves, comparison, sweeps.",
            _EXPERIMENTS,
        ),
        Command(
            "checkpoints",
            "llmforge.cli.checkpoints:app",
            "List, inspect, compare, verify and keep checkpoints.",
            _EXPERIMENTS,
        ),
        Command(
            "uploads",
            "llmforge.cli.uploads:app",
            "See and manage uploads to storage.",
            _EXPERIMENTS,
        ),
        Command(
            "export",
            "llmforge.cli.export:export",
            "Write a checkpoint as a folder for other programs, or its weights as one file.",
            _EXPERIMENTS,
        ),
        Command(
            "deploy",
            "llmforge.cli.deploy:deploy",
            "Deploy a model to a hub, a registry or storage.",
            _EXPERIMENTS,
        ),
        Command(
            "mcp",
            "llmforge.cli.mcp:mcp",
            "Let an assistant ask about runs: an MCP server on standard input and output.",
            _EXPERIMENTS,
        ),
        Command("recipe", "llmforge.cli.recipe:app", "Check, show and copy recipes.", _PREPARING),
        Command(
            "data",
            "llmforge.cli.data:app",
            "Prepare data, and see what is learned of it.",
            _PREPARING,
        ),
        Command(
            "launch",
            "llmforge.cli.launch:app",
            "Write a job file that trains a recipe on Slurm or Kubernetes.",
            _PREPARING,
        ),
        Command(
            "plan",
            "llmforge.cli.plan:plan",
            "Say what RECIPE needs: parameters, memory by backend, what fits.",
            _PREPARING,
        ),
        Command(
            "doctor",
            "llmforge.cli.doctor:doctor",
            "Check this machine: PyTorch, GPUs, disks, packages, plugins, network, a tiny "
            "training.",
            _PREPARING,
        ),
        Command(
            "models",
            "llmforge.cli.models:app",
            "Models by name, and the presets of components.",
            _PREPARING,
        ),
        Command(
            "plugins", "llmforge.cli.plugins:app", "List, explain and create plugins.", _PREPARING
        ),
    )
}


class LazyGroup(TyperGroup):
    """The root group: own commands and those of plugins, imported when they are used.

    While the help is written, stand-ins tell what a command is for; a plugin's only tells which
    package it comes from.
    """

    _writing_help = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return llmforge's own commands, then those of plugins."""
        del ctx
        try:
            others = sorted(_commands_of_plugins())
        except PluginError as error:
            if not self._writing_help:
                raise
            print(f"forge: {error}", file=sys.stderr)
            others = []
        return [*OWN, *(name for name in others if name not in OWN)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, imported unless only the help asks."""
        del ctx
        own = OWN.get(cmd_name)
        if own is not None:
            if self._writing_help:
                return TyperCommand(own.name, help=own.help, rich_help_panel=own.panel)
            module, _, attribute = own.target.partition(":")
            return _as_command(cmd_name, getattr(import_module(module), attribute))
        point = _commands_of_plugins().get(cmd_name)
        if point is None:
            return None
        if self._writing_help:
            source = point.dist.name if point.dist else point.value
            return TyperCommand(cmd_name, help=f"From {source}.", rich_help_panel=PLUGINS_PANEL)
        try:
            return _as_command(cmd_name, point.load())
        except Exception as error:
            raise PluginError(
                f"the command '{cmd_name}' ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}",
                remedy="upgrade or uninstall the package it comes from",
            ) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command, typer's own among them."""
        take_plain_values(self, ctx)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run.

        Raises:
            UsageError: there is none of that name.
        """
        known = not args or args[0] in OWN or ctx.resilient_parsing
        if not known and args[0] not in (names := self.list_commands(ctx)):
            import difflib

            near = difflib.get_close_matches(args[0], names, n=1)
            raise UsageError(
                f"no command '{args[0]}'",
                remedy=f"did you mean '{near[0]}'?" if near else "'forge --help' lists them",
            )
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if command is None else take_plain_values(command, ctx), rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help without importing any command."""
        self._writing_help = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._writing_help = False


app = typer.Typer(
    name="forge",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, resume, inspect and sample language models, each experiment one TOML recipe.",
    epilog="Begin with: forge train wikitext_tiny",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        from llmforge import __version__

        typer.echo(f"llmforge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show more of what happens.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Handle what every command shares."""
    del version
    if debug:
        os.environ["FORGE_DEBUG"] = "1"
    if verbose or quiet:
        from llmforge.cli.logs import set_verbosity

        set_verbosity(verbose=verbose, quiet=quiet)
    if sys.stderr.isatty() and not quiet:
        from llmforge.run.reporting.progress_bars import TerminalBars

        show_on(TerminalBars())


def main() -> None:
    """Run the command line; a user's error becomes one message and an exit code."""
    try:
        _run()
    except ForgeError as error:
        if os.environ.get("FORGE_DEBUG"):
            raise
        _end(error)
    except OSError as error:
        refusal = None if os.environ.get("FORGE_DEBUG") else as_refusal(error)
        if refusal is None:
            raise
        _end(refusal)
    except KeyboardInterrupt:
        print("forge: stopped", file=sys.stderr)
        sys.exit(130)
    except OutputClosed:  # forge ... | head
        sys.exit(EXIT_OK)
    finally:
        redact_tracebacks()  # after typer has set a hook of its own


def _end(error: ForgeError) -> NoReturn:
    if not (isinstance(error, PeerFailed) and error.shown):
        print(f"forge: {printable(redact(str(error)))}", file=sys.stderr)
    sys.exit(error.exit_code)


def _run() -> None:
    try:
        app()
    except SystemExit as end:
        if not end.code:
            sys.stdout.flush()  # here, where it can still fail with a message
        raise


def _commands_of_plugins() -> Mapping[str, EntryPoint]:
    from llmforge.installed import commands  # metadata of packages is slow to import

    return commands()


def _as_command(name: str, target: Any) -> Any:
    """Return a typer app, or a function, as a command of the root group."""
    holder = typer.Typer(add_completion=False, rich_markup_mode="rich")
    if _is_app(target) and not _is_one_command(target):
        holder.add_typer(target, name=name)
    else:
        function = target.registered_commands[0].callback if _is_app(target) else target
        holder.command(name)(function)
        holder.callback()(_nothing)
    return cast("Any", typer.main.get_command(holder)).commands[name]


def _is_app(target: Any) -> bool:
    return isinstance(target, typer.Typer)


def _is_one_command(app: typer.Typer) -> bool:
    """Return whether an app is its one command, as typer itself takes it."""
    return (
        len(app.registered_commands) == 1
        and not app.registered_groups
        and app.registered_callback is None
    )


def _nothing() -> None:
    """Make a group of an app with one command."""
