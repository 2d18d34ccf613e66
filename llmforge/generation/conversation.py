"""A conversation with a model: turns in, answers out, and what no longer fits is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmforge.data.chat_template import chat_template
from llmforge.data.prompts import ChatPrompts
from llmforge.errors import UsageError
from llmforge.generation.load import LoadedModel
from llmforge.generation.text import build_generator, changed_options
from llmforge.interfaces import ExampleLayout, GenerationRequest, Message
from llmforge.recipe import Selection


class Conversation:
    """What was said, and the model that answers.

    Args:
        loaded: the model.
        selection: the generator and its options.
        chat: lays out the turns.
        system: what the model is told before the first.
        seed: of the first answer; it goes up by one after each.

    Attributes:
        system: what the model is told before the first turn; None for nothing.
        turns: what was said, by the user and the model in turn.
        selection: the generator and its options.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        selection: Selection,
        *,
        chat: ChatPrompts,
        system: str | None,
        seed: int,
    ) -> None:
        self.system = system
        self.turns: list[Message] = []
        self.selection = selection
        self._loaded = loaded
        self._chat = chat
        self._seed = seed

    @property
    def messages(self) -> list[Message]:
        """Return the whole conversation, the system message included."""
        return [*self._told(), *self.turns]

    def change(self, **options: Any) -> None:
        """Change options of the generator.

        Raises:
            RecipeError: a value is not valid.
        """
        self.selection = changed_options(self.selection, options)

    def undo(self) -> bool:
        """Take back the last question and its answer; return whether there was one."""
        removed = self.turns[-2:]
        del self.turns[-2:]
        return bool(removed)

    def ask(self, text: str, *, write: Callable[[str], None], note: Callable[[str], None]) -> None:
        """Answer ``text``; an answer that is interrupted stays as far as it was written.

        Args:
            text: what the user says.
            write: shows a piece of the answer.
            note: shows a line that is not part of it.

        Raises:
            UsageError: it is too long for the model.
            TemplateError: the template refuses the conversation.
        """
        ids, dropped = self._fitting(text)
        if dropped:
            what = (
                "the oldest turn no longer fits"
                if dropped == 1
                else (f"the oldest {dropped} turns no longer fit")
            )
            note(f"{what} the context: left out from now on")
            del self.turns[: 2 * dropped]
        said: list[str] = []

        def on_text(_: int, piece: str) -> None:
            said.append(piece)
            write(piece)

        room = int(self._loaded.model.context) - len(ids)
        request = GenerationRequest(
            prompts=[text],
            prompt_ids=[ids],
            stop_ids=self._chat.stop_ids,
            seed=self._seed,
            on_text=on_text,
            max_new_tokens=min(room, getattr(self.selection.options, "max_new_tokens", room)),
        )
        try:
            build_generator(self._loaded, self.selection).generate(request)
        except KeyboardInterrupt:
            self._remember(text, said)
            raise
        self._remember(text, said)

    def _remember(self, text: str, said: Sequence[str]) -> None:
        self._seed += 1
        self.turns += [
            Message(role="user", content=text),
            Message(role="assistant", content="".join(said)),
        ]

    def _fitting(self, text: str) -> tuple[Sequence[int], int]:
        """Return the tokens of as many turns as fit with ``text``, and how many pairs do not."""
        context = int(self._loaded.model.context)
        wanted = getattr(self.selection.options, "max_new_tokens", context)
        room = min(wanted, context // 2)
        asked = Message(role="user", content=text)
        pairs = len(self.turns) // 2
        for dropped in range(pairs + 1):
            ids = self._chat.encode([*self._told(), *self.turns[2 * dropped :], asked])
            if len(ids) + room <= context or (dropped == pairs and len(ids) < context):
                return ids, dropped
        raise UsageError(
            f"the message has {len(ids)} tokens with what the template adds; the model's context "
            f"is {context}",
            remedy="shorten it" if self.system is None else "shorten it, or the system message",
        )

    def _told(self) -> list[Message]:
        return [] if self.system is None else [Message(role="system", content=self.system)]


def chat_prompts(loaded: LoadedModel, template: str | None) -> ChatPrompts:
    """Return what lays out the turns: the run's template, or another one.

    Raises:
        UsageError: the run has no template and none is given.
        DataError: the template cannot be used.
    """
    if template is not None:
        layout = ExampleLayout(template=template, truncate="right")
        found = chat_template(layout, loaded.tokenizer)
        assert found is not None, "a layout that names a template has one"
        tokenizer: Any = loaded.tokenizer
        return ChatPrompts(found, tokenizer)
    if isinstance(loaded.chat, ChatPrompts):
        return loaded.chat
    raise UsageError(
        f"{loaded.run.id} has no chat template: it was not trained on conversations",
        remedy=f"continue texts with: forge generate {loaded.run.id}; or name a template, "
        "for example --template chatml",
    )
