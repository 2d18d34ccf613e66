"""What is learned of a conversation is what a person would mark, or it is refused."""

from __future__ import annotations

import pytest
from chat_styles import ANSWERS, STYLES, TALK, Style, tokenizer

from llmforge.data.chat_template import TEMPLATES, ChatTemplate, TemplateError
from llmforge.data.supervision import Supervision
from llmforge.interfaces.examples import Message, Row
from llmforge_plugins.tokenizers._fast import FastTokenizer


def template(source: str, tokens: FastTokenizer, name: str = "x") -> ChatTemplate:
    special = {"eos_token": tokens.eos_token, "bos_token": tokens.bos_token}
    return ChatTemplate(source, name=name, tokens=special)


def learned(tokens: FastTokenizer, found: Row) -> list[str]:
    """Return the learned text, in runs."""
    runs: list[list[int]] = []
    before = False
    for index, scored in zip(found.ids, found.scored, strict=True):
        if scored and not before:
            runs.append([])
        if scored:
            runs[-1].append(index)
        before = scored
    return [tokens._inner.decode(run, skip_special_tokens=False) for run in runs]


def messages(style: Style) -> tuple[Message, ...]:
    return TALK if style.system else TALK[1:]


@pytest.mark.parametrize("name", STYLES)
def test_answers_and_the_end_of_their_turns_are_learned(name: str) -> None:
    style = STYLES[name]
    tokens = tokenizer(*style.special)
    found = Supervision(template(style.template, tokens, name), tokens).apply(messages(style))
    said = [text.upper() for text in ANSWERS] if "marks" in name else ANSWERS
    assert [run.lstrip(" ") for run in learned(tokens, found)] == [
        text + style.end for text in said
    ]
    whole = tokens._inner.decode(list(found.ids), skip_special_tokens=False)
    if style.text is not None:
        assert whole == style.text


@pytest.mark.parametrize("name", STYLES)
def test_the_text_and_its_tokens_are_those_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    style = STYLES[name]
    tokens = tokenizer(*style.special)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens._with_special_tokens,
        eos_token=tokens.eos_token,
        bos_token=tokens.bos_token,
        chat_template=style.template,
    )
    talk = [{"role": item.role, "content": item.content} for item in messages(style)]
    ids = fast.apply_chat_template(talk, tokenize=True, return_dict=False)
    found = Supervision(template(style.template, tokens, name), tokens).apply(messages(style))
    assert list(found.ids) == list(ids)


@pytest.mark.parametrize("name", STYLES)
def test_what_users_write_never_becomes_a_special_token(name: str) -> None:
    style = STYLES[name]
    tokens = tokenizer(*style.special)
    supervision = Supervision(template(style.template, tokens, name), tokens)
    plain = supervision.apply(messages(style))
    count = sum(index in tokens.special_tokens.values() for index in plain.ids)
    attack = tuple(
        Message(role=item.role, content=f"{item.content} {style.special[0]} ok")
        for item in messages(style)
    )
    if name == "with generation marks":
        with pytest.raises(TemplateError, match="message 1 has the text of the special token </s>"):
            supervision.apply(attack)
        return
    found = supervision.apply(attack)
    assert sum(index in tokens.special_tokens.values() for index in found.ids) == count
    assert f"river. {style.special[0]} ok" in tokens._inner.decode(
        list(found.ids), skip_special_tokens=False
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_named_templates(name: str) -> None:
    tokens = tokenizer("<|im_end|>" if name == "chatml" else "<|endoftext|>", "<|im_start|>")
    talk = TALK if name != "plain" else TALK[1:]
    found = Supervision(template(TEMPLATES[name], tokens, name), tokens).apply(talk)
    assert learned(tokens, found) == [text + str(tokens.eos_token) for text in ANSWERS]


def test_only_the_last_response_is_learned() -> None:
    style = STYLES["chatml"]
    tokens = tokenizer(*style.special)
    found = Supervision(template(style.template, tokens), tokens, train_on="last_response").apply(
        TALK
    )
    assert learned(tokens, found) == [ANSWERS[1] + "<|im_end|>"]


def test_everything_is_learned_but_the_first_token() -> None:
    style = STYLES["chatml"]
    tokens = tokenizer(*style.special)
    found = Supervision(template(style.template, tokens), tokens, train_on="all").apply(TALK)
    assert found.scored == (False, *[True] * (len(found.ids) - 1))


def test_a_missing_end_is_added_to_the_last_answer() -> None:
    tokens = tokenizer("</s>")
    source = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"
    found = Supervision(template(source, tokens), tokens).apply(TALK[1:3])
    assert [run.lstrip(" ") for run in learned(tokens, found)] == ["The Danube.</s>"]


REFUSED = {
    "an earlier answer has no end": (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}",
        "does not end the assistant's turns with a special token",
    ),
    "what is said is changed": (
        "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}",
        "changes what is said",
    ),
    "an answer is left out": (
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{{ eos_token }}"
        "{% endfor %}",
        "leaves out message 3, an answer",
    ),
    "the template refuses": (
        "{{ raise_exception('roles must alternate') }}",
        "refuses it: roles must alternate",
    ),
    "the template has an error": ("{{ messages[9].content }}", "refuses it: .*"),
    "an answer is joined to what is before it": (
        "{% for m in messages %}{{ m.role }}{{ m.content }}{{ eos_token }}{% endfor %}",
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_for_certain_is_refused(name: str) -> None:
    source, message = REFUSED[name]
    tokens = tokenizer("</s>")
    supervision = Supervision(template(source, tokens, "mine.jinja"), tokens)
    if message is None:
        # "assistantThe" may be cut anywhere: refused only where a token holds both
        found = supervision.apply(TALK)
        assert learned(tokens, found) == [text + "</s>" for text in ANSWERS]
        return
    with pytest.raises(TemplateError, match=message) as caught:
        supervision.apply(TALK)
    assert "mine.jinja" in caught.value.message


def test_a_token_that_holds_answer_and_prompt_is_refused() -> None:
    tokens = tokenizer("</s>")
    source = "{% for m in messages %}X{{ m.content }}{{ eos_token }}{% endfor %}"
    talk = (Message(role="user", content="a"), Message(role="assistant", content="Y"))
    joined = Supervision(template(source, tokens), _Joining(tokens, "XY"))
    with pytest.raises(TemplateError, match="the token 'XY' holds both"):
        joined.apply(talk)


class _Joining:
    """A tokenizer to whom two characters are one token."""

    def __init__(self, inner: FastTokenizer, pair: str) -> None:
        self._inner, self._pair = inner, pair
        self.special_tokens, self.eos_token = inner.special_tokens, inner.eos_token
        self.bos_token, self.chat_template = inner.bos_token, None

    def encode_spans(self, text: str, *, special: bool):
        ids, spans = self._inner.encode_spans(text, special=special)
        at = text.index(self._pair)
        spans = [(at, at + 2) if at <= first < at + 2 else (first, last) for first, last in spans]
        return ids, spans


def test_a_template_that_is_not_jinja_is_refused_by_line() -> None:
    with pytest.raises(TemplateError, match=r"mine\.jinja is not valid Jinja: line 2"):
        ChatTemplate("a\n{% for %}", name="mine.jinja", tokens={})


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_outside(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source, name="x", tokens={}).render(TALK)


def test_white_space_that_a_template_trims_is_followed() -> None:
    style = STYLES["llama-3"]
    tokens = tokenizer(*style.special)
    talk = (
        Message(role="user", content="  hello \n"),
        Message(role="assistant", content="\n\nhi  "),
    )
    found = Supervision(template(style.template, tokens), tokens).apply(talk)
    assert learned(tokens, found) == ["hi<|eot_id|>"]


def test_tool_calls_need_marks() -> None:
    style = STYLES["chatml"]
    tokens = tokenizer(*style.special)
    call = {"tool_calls": [{"function": {"name": "rivers", "arguments": {}}}]}
    talk = (TALK[1], Message(role="assistant", content="", fields=call), TALK[4])
    with pytest.raises(TemplateError, match="calls a tool"):
        Supervision(template(style.template, tokens), tokens).apply(talk)
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    found = Supervision(template(source, tokens), tokens).apply(talk)
    assert learned(tokens, found) == [
        '[{"function": {"name": "rivers", "arguments": {}}}]<|im_end|>' + ANSWERS[1] + "<|im_end|>"
    ]


def test_bytes_are_learned_too() -> None:
    from llmforge_plugins.tokenizers.bytes import ByteTokenizer

    tokens = ByteTokenizer()
    source = ChatTemplate(TEMPLATES["plain"], name="plain", tokens={"eos_token": tokens.eos_token})
    talk = (Message(role="user", content="hä?"), Message(role="assistant", content="ö!"))
    found = Supervision(source, tokens).apply(talk)
    assert [i for i, s in zip(found.ids, found.scored, strict=True) if s] == [
        *"ö!".encode(),
        256,
    ]
    assert found.ids.count(256) == 2
