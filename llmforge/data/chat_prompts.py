"""Prompts as the turns of a conversation, laid out as the model has seen them in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from llmforge.data.chat_template import ChatTemplate, template_of
from llmforge.data.supervision import Supervision
from llmforge.errors import DataError, UsageError
from llmforge.interfaces import ChatTokenizer, GenerationRequest, Message, Tokenizer
from llmforge.rundir.atomic import write_text

TEMPLATE = "chat_template.jinja"
"""The template of a run beside its tokenizer, where ``transformers`` looks for it too."""

_ANSWERS = ("A", "The", "1")
"""Stand for the answer. What comes before all of them is the prompt: many tokenizers join a space
before the answer to its first word, and then it is the model's to say."""


class ChatPrompts:
    """Lays out conversations for the assistant to answer.

    The tokens are those that come before an answer in training: the conversation is laid out with
    an answer at its end, which is then cut off. A template's own ``add_generation_prompt`` may
    differ from that by a space.

    Args:
        template: of the run.
        tokenizer: of the run.

    Attributes:
        template: how messages are laid out.
        stop_ids: the token that ends the assistant's turn.

    Raises:
        TemplateError: the template cannot be used with the tokenizer.
    """

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer) -> None:
        self.template = template
        self._supervision = Supervision(template, tokenizer, train_on="last_response")
        special = frozenset(tokenizer.special_tokens.values())
        ids, scored = self._answered([Message(role="user", content="Q")], _ANSWERS[0])
        learned = itertools.compress(ids, scored)
        self.stop_ids = frozenset(learned) & special

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation up to where the assistant's answer begins.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        found = [self._answered(messages, answer) for answer in _ANSWERS]
        prompts = [ids[: scored.index(True)] for ids, scored in found]
        common = itertools.takewhile(
            lambda column: len({*column}) == 1, zip(*prompts, strict=False)
        )
        return tuple(column[0] for column in common)

    def _answered(
        self, messages: Sequence[Message], answer: str
    ) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return the tokens of a conversation with an answer, and which of them are that."""
        found = self._supervision.apply([*messages, Message(role="assistant", content=answer)])
        return found.ids, found.scored


def chosen(found: ChatPrompts | None, *, wanted: bool | None) -> ChatPrompts | None:
    """Return ``found`` where prompts are messages, None where they are text to continue.

    Args:
        found: of the run; None when it has no chat template.
        wanted: whether they shall be messages; None: where the run has a template.

    Raises:
        UsageError: they shall be, and the run has none.
    """
    if wanted and found is None:
        raise UsageError(
            "this run has no chat template: it was trained on running text",
            remedy="leave out --chat, or set generation.chat = false",
        )
    return None if wanted is False else found


def prompt_request(
    prompts: Sequence[str],
    *,
    chat: ChatPrompts | None,
    system: str | None = None,
    samples: int = 1,
    seed: int = 0,
    on_text: Callable[[int, str], None] | None = None,
) -> GenerationRequest:
    """Return the request that continues ``prompts``, or answers them.

    Args:
        prompts: texts; with ``chat`` each is the only message of a user.
        chat: lays out messages; None to continue texts as they are.
        system: a system message before each.
        samples: continuations per prompt.
        seed: equal seeds give equal texts.
        on_text: told (index of the completion, new piece of text) while generating.

    Raises:
        TemplateError: the template refuses a message.
        UsageError: there is a system message, but nothing lays it out.
    """
    if chat is None:
        if system is not None:
            raise UsageError(
                "a system message needs prompts that are messages",
                remedy="leave out --system, or generation.system",
            )
        return GenerationRequest(prompts=prompts, samples=samples, seed=seed, on_text=on_text)
    before = () if system is None else (Message(role="system", content=system),)
    return GenerationRequest(
        prompts=prompts,
        prompt_ids=[chat.encode([*before, Message(role="user", content=text)]) for text in prompts],
        stop_ids=chat.stop_ids,
        samples=samples,
        seed=seed,
        on_text=on_text,
    )


def save_template(directory: Path, template: ChatTemplate) -> None:
    """Keep the template beside the tokenizer saved in ``directory``."""
    path = directory / TEMPLATE
    if not path.exists() or path.read_text(encoding="utf-8") != template.source:
        write_text(path, template.source)


def load_prompts(directory: Path, tokenizer: Tokenizer) -> ChatPrompts | None:
    """Return what lays out prompts with the template saved in ``directory``; None without one.

    Raises:
        DataError: the file cannot be read.
        TemplateError: the template cannot be used.
    """
    path = directory / TEMPLATE
    if not path.exists() or not isinstance(tokenizer, ChatTokenizer):
        return None
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return ChatPrompts(template_of(source, name=str(path), tokenizer=tokenizer), tokenizer)
