"""The interactive session: a prompt is typed, its continuation streams, options change between."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from llmforge.data.prompts import PromptLayout, prompt_request
from llmforge.errors import ForgeError, UsageError
from llmforge.generation.load import LoadedModel
from llmforge.generation.text import StreamedText, build_generator, changed_options
from llmforge.options import plain
from llmforge.recipe import Selection

HELP = """\
Type a text and the model continues it.
  /set                   show the options
  /set temperature=0.5   change one; seed=N makes the next text repeatable
  /help                  show this
  /quit or Ctrl-D        leave
Ctrl-C stops the text being generated. The seed goes up by one after each text."""


class Session:
    """Reads prompts until the user leaves.

    Args:
        loaded: the model.
        selection: the generator and its options to begin with.
        seed: seed of the first text.
        chat: lays out what the user types as a message; None to continue it.
        system: a system message before each.
        read: returns a line the user typed; raises ``EOFError`` to leave and
            ``KeyboardInterrupt`` when the line is given up.
        write: shows a piece of generated text as it comes.
        begin: shows the prompt a text continues.
        note: shows a line that is not generated text.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        selection: Selection,
        *,
        seed: int,
        chat: PromptLayout | None,
        system: str | None,
        read: Callable[[], str],
        write: Callable[[str], None],
        begin: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._loaded = loaded
        self._selection = selection
        self._seed = seed
        self._chat = chat
        self._system = system
        self._read = read
        self._write = write
        self._begin = begin
        self._note = note

    def run(self) -> None:
        """Continue until ``/quit`` or the end of the input."""
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if line.strip() in ("/quit", "/exit", "/q"):
                return
            if not line.strip():
                continue
            try:
                self._answer(line)
            except ForgeError as error:
                self._note(str(error))

    def _answer(self, line: str) -> None:
        if not line.startswith("/"):
            self._continue(line)
            return
        command, _, argument = line.strip().partition(" ")
        if command == "/help":
            self._note(HELP)
        elif command == "/set":
            self._set(argument.strip())
        else:
            raise UsageError(f"unknown command '{command}'", remedy="/help lists the commands")

    def _continue(self, prompt: str) -> None:
        shown = StreamedText(prompt, begin=self._begin, write=self._write)
        request = prompt_request(
            [prompt], chat=self._chat, system=self._system, seed=self._seed, on_text=shown
        )
        generator = build_generator(self._loaded, self._selection)
        try:
            generator.generate(request)
        except KeyboardInterrupt:
            shown.end()
            self._note("stopped")
        else:
            shown.end()
        self._seed += 1

    def _set(self, argument: str) -> None:
        if not argument:
            values = {"seed": self._seed, **plain(self._selection.options)}
            self._note("\n".join(f"  {key} = {value!r}" for key, value in values.items()))
            return
        key, equals, text = argument.partition("=")
        if not equals:
            raise UsageError("/set takes option=value", remedy="for example /set temperature=0.5")
        key, value = key.strip(), _value(text.strip())
        if key != "seed":
            self._selection = changed_options(self._selection, {key: value})
        elif isinstance(value, int):
            self._seed = value
        else:
            raise UsageError(f"seed must be a whole number, got '{text.strip()}'")


def _value(text: str) -> Any:
    """Return a TOML value, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
