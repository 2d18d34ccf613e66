"""``forge chat``: talk with a model that was trained on conversations."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options, sampling_options
from llmforge.cli.common import console, error_console, interactive, run_root
from llmforge.printable import decoded, printable

_HISTORY_LINES = 1000
_LONGEST_WORD = 24

Run = Annotated[
    str, options.argument("RUN", "RUN, RUN@best, RUN@last, RUN@STEP or the path of a checkpoint.")
]
System = Annotated[
    str | None, options.option("--system", help="What the model is told before the first message.")
]
Template = Annotated[
    str | None,
    options.option(
        "--template",
        metavar="NAME_OR_FILE",
        help="Another chat template than the run's: alpaca, chatml, plain or a Jinja file.",
    ),
]


def chat(
    run: Run,
    system: System = None,
    template: Template = None,
    max_new_tokens: sampling_options.MaxNewTokens = None,
    temperature: sampling_options.Temperature = None,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    min_p: sampling_options.MinP = None,
    repetition_penalty: sampling_options.RepetitionPenalty = None,
    greedy: sampling_options.Greedy = None,
    lookup: sampling_options.Lookup = None,
    seed: sampling_options.Seed = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = None,
    root: options.Root = None,
) -> None:
    """Talk with a model that was trained on conversations.

    Answers stream, and the model knows what was said before; /help lists the commands.
    Text that is piped in is one message per line; only answers go to standard output, and the
    exit code is 1 if any line failed.
    """
    from llmforge.generation import changed_options, open_checkpoint
    from llmforge.generation.chat_session import ChatSession
    from llmforge.generation.conversation import Conversation, chat_prompts

    changes = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "greedy": greedy,
        "lookup": lookup,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    loaded = open_checkpoint(
        run,
        root=run_root(root),
        device=device,
        dtype=dtype,
        weights=weights,
        notice=_note,
        say=_note,
    )
    conversation = Conversation(
        loaded,
        changed_options(loaded.recipe.selected("generation"), given),
        chat=chat_prompts(loaded, template),
        system=loaded.recipe.generation.system if system is None else decoded(system),
        seed=loaded.recipe.generation.seed if seed is None else seed,
    )
    _note(str(loaded))
    if loaded.int8 is not None:
        from llmforge.int8_quality import describe_int8

        describe_int8(loaded, note=_note)
    if not interactive():
        shown = _Plain()
        session = ChatSession(
            conversation, read=_read_line, write=shown.write, end=shown.end, note=_note
        )
        if session.run():
            raise typer.Exit(1)
        return
    _note("type a message; /help lists the commands, Ctrl-D leaves")
    with _line_history():
        wrapped = WrappedText(sys.stdout.write, width=lambda: console().width)
        ChatSession(conversation, read=_ask, write=wrapped.write, end=wrapped.end, note=_note).run()


class WrappedText:
    """Streams text to a terminal, lines broken between words.

    A word is shown once it is complete, or long enough to be more than a word, as in languages
    without spaces.

    Args:
        show: writes to the terminal.
        width: returns its columns.
    """

    def __init__(self, show: Callable[[str], object], *, width: Callable[[], int]) -> None:
        self._show = show
        self._width = width
        self._column = 0
        self._word = ""

    def write(self, piece: str) -> None:
        """Show all words that ``piece`` completes."""
        from rich.cells import cell_len

        for character in printable(piece):
            if character in " \n":
                self._flush()
                self._space(character)
            else:
                self._word += character
                if len(self._word) >= _LONGEST_WORD or cell_len(character) > 1:
                    self._flush()
        sys.stdout.flush()

    def end(self) -> None:
        """Show the rest, and end the line."""
        self._flush()
        self._show("\n")
        self._column = 0
        sys.stdout.flush()

    def _flush(self) -> None:
        from rich.cells import cell_len

        cells = cell_len(self._word)
        if self._column and self._column + cells > self._width():
            self._show("\n")
            self._column = 0
        self._show(self._word)
        self._column += cells
        self._word = ""

    def _space(self, character: str) -> None:
        if character == "\n" or self._column + 1 >= self._width():
            self._show("\n")
            self._column = 0
        elif self._column or character == " ":
            self._show(character)
            self._column += 1


class _Plain:
    """Shows answers as they are, each on lines of its own."""

    def write(self, piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    def end(self) -> None:
        self.write("\n")


def _read_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return decoded(line)


def _ask() -> str:
    try:
        # what is between \001 and \002 takes no columns, which readline has to know
        return input("\001\033[1;36m\002you>\001\033[0m\002 ")
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
        raise


@contextlib.contextmanager
def _line_history() -> Iterator[None]:
    """Give ``input`` editing and the lines of earlier chats, which only the user may read."""
    try:
        import readline
    except ImportError:  # Windows' own console has as much
        yield
        return
    base = os.environ.get("XDG_STATE_HOME")
    path = (Path(base) if base else Path.home() / ".local" / "state") / "llmforge" / "chat_history"
    readline.clear_history()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a chat does not fail for its history
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


def _note(text: str) -> None:
    error_console().print(text, style="dim", highlight=False, markup=False)
