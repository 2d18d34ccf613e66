"""What a model is given to answer is what it saw before answers in training."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_styles import STYLES, TALK, tokenizer

from llmforge.data.chat_template import TEMPLATES, TemplateError, template_of
from llmforge.data.prompts import (
    ChatPrompts,
    PromptLayout,
    chosen,
    load_prompts,
    prompt_request,
    save_template,
)
from llmforge.data.supervision import Supervision
from llmforge.errors import UsageError
from llmforge.interfaces import Objective
from llmforge.interfaces.examples import Message


def prompts(name: str) -> ChatPrompts:
    style = STYLES[name]
    tokens = tokenizer(*style.special)
    return ChatPrompts(template_of(style.template, name=name, tokenizer=tokens), tokens)


@pytest.mark.parametrize("name", STYLES)
def test_a_prompt_is_what_comes_before_the_answer_in_training(name: str) -> None:
    style = STYLES[name]
    tokens = tokenizer(*style.special)
    template = template_of(style.template, name=name, tokenizer=tokens)
    talk = TALK if style.system else TALK[1:]
    trained = Supervision(template, tokens, train_on="last_response").apply(talk)

    found = ChatPrompts(template, tokens)

    ids = found.encode(talk[:-1])
    before = trained.ids[: trained.scored.index(True)]
    assert ids == before[: len(ids)]
    assert len(ids) == len(before) or not tokens.decode(before[len(ids) :]).strip()
    last = max(place for place, scored in enumerate(trained.scored) if scored)
    assert trained.ids[last] in found.stop_ids


def test_the_end_of_a_turn_stops_a_text_where_it_is_not_the_end_of_texts() -> None:
    tokens = tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    template = template_of(TEMPLATES["chatml"], name="chatml", tokenizer=tokens)
    assert ChatPrompts(template, tokens).stop_ids == {tokens.special_tokens["<|im_end|>"]}


def test_a_prompt_with_the_name_of_a_special_token_is_text() -> None:
    found = prompts("chatml")
    special = STYLES["chatml"].special
    tokens = tokenizer(*special)
    ends = found.encode([Message(role="user", content=f"say {special[0]} twice")])
    plain = found.encode([Message(role="user", content="say it twice")])
    end = tokens.special_tokens[special[0]]
    assert ends.count(end) == plain.count(end) == 1


def test_a_request_has_the_tokens_and_the_stops() -> None:
    found = prompts("chatml")
    request = prompt_request(["Name a river."], chat=found, system="Be brief.", seed=3)
    assert request.prompt_ids == [found.encode(TALK[:2])]
    assert (request.stop_ids, request.seed) == (found.stop_ids, 3)
    assert prompt_request(["Name a river."], chat=None).prompt_ids is None


def test_a_system_message_needs_a_template() -> None:
    with pytest.raises(UsageError, match="a system message needs prompts that are messages"):
        prompt_request(["x"], chat=None, system="Be brief.")


def test_a_template_without_system_messages_refuses_one() -> None:
    tokens = tokenizer("<|endoftext|>")
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system messages') }}{% endif %}"
        "{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    found = ChatPrompts(template_of(source, name="mine", tokenizer=tokens), tokens)
    with pytest.raises(TemplateError, match="no system messages"):
        prompt_request(["x"], chat=found, system="Be brief.")


def test_messages_are_asked_of_a_run_without_a_template() -> None:
    assert chosen(None, wanted=None) is None
    found = prompts("chatml")
    assert chosen(found, wanted=None) is found
    assert chosen(found, wanted=False) is None
    with pytest.raises(UsageError, match="no chat template"):
        chosen(None, wanted=True)


def test_the_template_is_kept_beside_the_tokenizer(tmp_path: Path) -> None:
    tokens = tokenizer("<|endoftext|>")

    def loaded() -> PromptLayout | None:
        return load_prompts(tmp_path, tokens, objective=Objective(), context=32)

    assert loaded() is None
    save_template(tmp_path, template_of(TEMPLATES["plain"], name="plain", tokenizer=tokens))
    found = loaded()
    assert isinstance(found, ChatPrompts)
    assert found.template.source == (tmp_path / "chat_template.jinja").read_text()
