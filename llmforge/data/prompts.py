"""Prompts laid out as the model has seen them in training: messages, or sources of a target."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from llmforge.data.chat_template import ChatTemplate, template_of
from llmforge.data.encoder import Encoder
from llmforge.data.supervision import Supervision
from llmforge.errors import DataError, UsageError
from llmforge.interfaces import (
    ChatTokenizer,
    ExampleEncoder,
    ExampleLayout,
    GenerationRequest,
    Message,
    Objective,
    Row,
    Tokenizer,
)
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
        row = self._answered([Message(role="user", content="Q")], _ANSWERS[0])
        self.stop_ids = frozenset(itertools.compress(row.ids, row.scored)) & special

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation up to where the assistant's answer begins.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        rows = [self._answered(messages, answer) for answer in _ANSWERS]
        prompts = [row.ids[: row.scored.index(True)] for row in rows]
        shortest = zip(*prompts, strict=False)
        common = itertools.takewhile(lambda column: len({*column}) == 1, shortest)
        return tuple(column[0] for column in common)

    def _answered(self, messages: Sequence[Message], answer: str) -> Row:
        return self._supervision.apply([*messages, Message(role="assistant", content=answer)])


class SourcePrompts:
    """Lays out texts as an objective does, for models that read all of a text before they write.

    Args:
        objective: of the run.
        encoder: makes tokens of texts.
    """

    stop_ids: frozenset[int] = frozenset()

    def __init__(self, objective: Objective, encoder: ExampleEncoder) -> None:
        self._objective = objective
        self._encoder = encoder

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of what was said, as a source."""
        text = "\n\n".join(message.content for message in messages)
        return tuple(self._objective.prompt(text, self._encoder) or ())


PromptLayout = ChatPrompts | SourcePrompts


def chosen(found: PromptLayout | None, *, wanted: bool | None) -> PromptLayout | None:
    """Return ``found`` where prompts are laid out, None where they are text to continue.

    Args:
        found: of the run; None when it was trained on running text.
        wanted: whether they shall be; None: where the run has something to do it.

    Raises:
        UsageError: they shall be, and it has nothing.
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
    chat: PromptLayout | None,
    system: str | None = None,
    samples: int = 1,
    seed: int = 0,
    on_text: Callable[[int, str], None] | None = None,
) -> GenerationRequest:
    """Return the request that continues ``prompts``, or answers them.

    Args:
        prompts: texts; with ``chat`` each is the only message of a user, or a source.
        chat: lays them out; None to continue texts as they are.
        system: a system message before each.
        samples: continuations per prompt.
        seed: equal seeds give equal texts.
        on_text: told (index of the completion, new piece of text) while generating.

    Raises:
        TemplateError: the template refuses a message.
        UsageError: there is a system message, but nothing lays it out.
    """
    if chat is None and system is not None:
        raise UsageError(
            "a system message needs prompts that are messages of a conversation",
            remedy="leave out --system, or generation.system",
        )
    before = () if system is None else (Message(role="system", content=system),)
    return GenerationRequest(
        prompts=prompts,
        prompt_ids=None
        if chat is None
        else [chat.encode([*before, Message(role="user", content=text)]) for text in prompts],
        stop_ids=frozenset() if chat is None else chat.stop_ids,
        samples=samples,
        seed=seed,
        on_text=on_text,
    )


def save_template(directory: Path, template: ChatTemplate) -> None:
    """Keep the template beside the tokenizer saved in ``directory``."""
    path = directory / TEMPLATE
    if not path.exists() or path.read_text(encoding="utf-8") != template.source:
        write_text(path, template.source)


def load_prompts(
    directory: Path, tokenizer: Tokenizer, *, objective: Objective, context: int
) -> PromptLayout | None:
    """Return what lays out prompts: the objective, or the template saved in ``directory``.

    None for a run on running text.

    Raises:
        DataError: the file cannot be read.
        TemplateError: the template cannot be used.
    """
    if (found := source_prompts(objective, tokenizer, context=context)) is not None:
        return found
    path = directory / TEMPLATE
    if not path.exists() or not isinstance(tokenizer, ChatTokenizer):
        return None
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return ChatPrompts(template_of(source, name=str(path), tokenizer=tokenizer), tokenizer)


def source_prompts(
    objective: Objective, tokenizer: Tokenizer, *, context: int
) -> SourcePrompts | None:
    """Return what lays out prompts as ``objective`` does; None where it leaves that to the core."""
    if not isinstance(tokenizer, ChatTokenizer):
        return None
    encoder = Encoder(
        None,
        tokenizer,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        layout=ExampleLayout(template=None, truncate="right"),
        context=context,
    )
    laid_out = objective.prompt("", encoder)
    return None if laid_out is None else SourcePrompts(objective, encoder)
