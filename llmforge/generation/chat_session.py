"""The chat of the command line: lines are messages or commands, answers stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llmforge.errors import ForgeError, RecipeError, UsageError
from llmforge.generation.conversation import Conversation
from llmforge.rundir.atomic import write_text

HELP = """\
Type a message and the model answers; it knows what was said before.
  /reset            forget what was said
  /undo             take back the last message and its answer
  /system TEXT      tell the model something before the first message; without TEXT nothing
  /temperature T    below 1 more predictable, above 1 more varied, 0 always the likeliest
  /save FILE        write the conversation as JSON
  /help             show this
  /quit or Ctrl-D   leave
Ctrl-C stops the answer being written."""


class ChatSession:
    """Reads messages until the user leaves.

    Args:
        conversation: with the model.
        read: returns a line the user typed; raises ``EOFError`` to leave and
            ``KeyboardInterrupt`` when the line is given up.
        write: shows a piece of an answer.
        end: ends an answer that was shown.
        note: shows a line that is not part of an answer.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        read: Callable[[], str],
        write: Callable[[str], None],
        end: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._conversation = conversation
        self._read = read
        self._write = write
        self._end = end
        self._note = note
        self._saved: set[Path] = set()

    def run(self) -> int:
        """Continue until ``/quit`` or the end of the input; return how many lines failed."""
        failed = 0
        while True:
            try:
                line = self._read().strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return failed
            if line in ("/quit", "/exit", "/q"):
                return failed
            if not line:
                continue
            try:
                self._take(line)
            except ForgeError as error:
                failed += 1
                self._note(str(error))

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            self._ask(line)
            return
        name, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._note(HELP),
            "/reset": self._reset,
            "/undo": self._undo,
            "/system": self._system,
            "/temperature": self._temperature,
            "/save": self._save,
        }
        if name not in commands:
            raise UsageError(f"unknown command '{name}'", remedy="/help lists the commands")
        commands[name](argument.strip())

    def _ask(self, text: str) -> None:
        try:
            self._conversation.ask(text, write=self._write, note=self._note)
        except KeyboardInterrupt:
            self._end()
            self._note("stopped")
        else:
            self._end()

    def _reset(self, _: str) -> None:
        self._conversation.turns.clear()
        self._note("what was said is forgotten")

    def _undo(self, _: str) -> None:
        undone = self._conversation.undo()
        self._note("the last message is taken back" if undone else "nothing was said yet")

    def _system(self, text: str) -> None:
        self._conversation.system = text or None
        self._note(f"system message: {text}" if text else "no system message")

    def _temperature(self, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            raise UsageError(
                f"/temperature takes a number, got '{text}'", remedy="for example /temperature 0.7"
            ) from None
        try:
            self._conversation.change(temperature=value)
        except RecipeError as error:
            raise UsageError(f"/temperature: {error.problems[0].message}") from None
        self._note(f"temperature {value:g}")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save takes the name of a file", remedy="for example /save chat.json")
        if not self._conversation.turns:
            raise UsageError(
                "there is nothing to save: the model has not answered yet",
                remedy="type a message first; the system message is saved with the conversation",
            )
        path = Path(name).expanduser().absolute()
        if path.exists() and path not in self._saved:
            raise UsageError(f"{path} exists", remedy="choose another name")
        messages = [
            {"role": item.role, "content": item.content} for item in self._conversation.messages
        ]
        text = json.dumps({"messages": messages}, ensure_ascii=False)
        try:
            write_text(path, text + "\n")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
        self._saved.add(path)
        count = "1 message" if len(messages) == 1 else f"{len(messages)} messages"
        self._note(f"{count} saved in {path}")
