"""``forge``: the command line. Light by construction: heavy code is imported inside commands."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmforge.cli import checkpoints, data, models, plugins, recipe, runs
from llmforge.cli.evaluate import evaluate
from llmforge.cli.generate import generate
from llmforge.cli.logs import set_verbosity
from llmforge.cli.train import train
from llmforge.errors import EXIT_FAILURE, ForgeError
from llmforge.installed import commands

_PLUGIN_PANEL = "Commands of plugins"


class PluginGroup(TyperGroup):
    """The root group, which also offers the commands of installed plugins.

    The help lists them from package metadata; a command's module is imported when it is invoked.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return llmforge's own commands, then those of plugins."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(commands()) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; for a plugin's, a stand-in that only the help looks at."""
        own = super().get_command(ctx, cmd_name)
        point = commands().get(cmd_name)
        if own is not None or point is None:
            return own
        return _placeholder(cmd_name, point)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load a plugin's command when it is the one to run."""
        name = args[0] if args else ""
        point = commands().get(name)
        if point is not None and super().get_command(ctx, name) is None:
            return name, _loaded(name, point), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="forge",
    cls=PluginGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, resume, inspect and sample language models, each experiment one TOML recipe.",
    epilog="Begin with: forge train wikitext_tiny",
    pretty_exceptions_enable=False,
)
app.command(rich_help_panel="Experiments")(train)
app.command(rich_help_panel="Experiments")(generate)
app.command(rich_help_panel="Experiments")(evaluate)
app.add_typer(runs.app, name="runs", rich_help_panel="Experiments")
app.add_typer(checkpoints.app, name="checkpoints", rich_help_panel="Experiments")
app.add_typer(recipe.app, name="recipe", rich_help_panel="Preparing")
app.add_typer(data.app, name="data", rich_help_panel="Preparing")
app.add_typer(models.app, name="models", rich_help_panel="Preparing")
app.add_typer(plugins.app, name="plugins", rich_help_panel="Preparing")


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
    set_verbosity(verbose=verbose, quiet=quiet)


def main() -> None:
    """Run the command line; a user's error becomes one message and an exit code."""
    try:
        app()
    except ForgeError as error:
        if os.environ.get("FORGE_DEBUG"):
            raise
        print(f"forge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("forge: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone (forge ... | head); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)


def _placeholder(name: str, point: EntryPoint) -> Any:
    distribution = point.dist.name if point.dist else point.value

    def run() -> None:
        raise AssertionError("the group loads the real command before running it")

    holder = typer.Typer(add_completion=False)
    holder.command(name, help=f"From {distribution}.", rich_help_panel=_PLUGIN_PANEL)(run)
    return typer.main.get_command(holder)


def _loaded(name: str, point: EntryPoint) -> Any:
    from llmforge.errors import PluginError

    try:
        target = point.load()
    except Exception as error:
        raise PluginError(
            f"the command '{name}' ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}",
            remedy="upgrade or uninstall the package it comes from",
        ) from error
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    holder = typer.Typer(add_completion=False)
    holder.command(name)(target)
    return typer.main.get_command(holder)
