"""Chat templates in the styles that models use, written for these tests.

The layout of each is that of the models it is named after; what a person marks as learned is
written beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llmforge.interfaces.examples import Message
from llmforge_plugins.tokenizers._fast import FastTokenizer

TALK = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Name a river."),
    Message(role="assistant", content="The Danube."),
    Message(role="user", content="And another?\nPlease."),
    Message(role="assistant", content="The Nile,\nin Africa."),
)
ANSWERS = ("The Danube.", "The Nile,\nin Africa.")


@dataclass(frozen=True)
class Style:
    """A template and what is learned of ``TALK``.

    Attributes:
        template: Jinja.
        special: special tokens; the first ends texts.
        end: what is learned after each answer.
        system: whether it knows the role.
        text: the whole of it, where that is short to write; None otherwise.
    """

    template: str
    special: tuple[str, ...]
    end: str
    system: bool = True
    text: str | None = None


_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}"
    "{{ '\\n' }}{% endfor %}"
)

STYLES = {
    "chatml": Style(_CHATML, ("<|im_end|>", "<|im_start|>"), "<|im_end|>"),
    "llama-2": Style(
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
        "{% set system = messages[0].content %}{% else %}{% set rest = messages %}"
        "{% set system = false %}{% endif %}"
        "{% for m in rest %}"
        "{% if loop.first and system %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m.content %}"
        "{% else %}{% set content = m.content %}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        ("</s>", "<s>"),
        " </s>",
    ),
    "llama-3": Style(
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim }}"
        "{{ '<|eot_id|>' }}{% endfor %}",
        ("<|eot_id|>", "<s>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
    ),
    "zephyr": Style(
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}"
        "{% endfor %}",
        ("</s>", "<s>"),
        "</s>",
    ),
    "mistral": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
        "{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant roles are supported') }}{% endif %}"
        "{% endfor %}",
        ("</s>", "<s>"),
        "</s>",
        system=False,
    ),
    "gemma": Style(
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m.role %}"
        "{% endif %}{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}"
        "{% endfor %}",
        ("<end_of_turn>", "<s>", "<start_of_turn>"),
        "<end_of_turn>",
        system=False,
    ),
    "phi-3": Style(
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}"
        "{% endfor %}{{ eos_token }}",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        "<|end|>",
    ),
    "qwen": Style(
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        + _CHATML,
        ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
        "<|im_end|>",
    ),
    "qwen without system": Style(
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        + _CHATML,
        ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
        "<|im_end|>",
        system=False,
    ),
    "dialogpt": Style(
        "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
        ("<|endoftext|>",),
        "<|endoftext|>",
        system=False,
        text="Name a river.<|endoftext|>The Danube.<|endoftext|>And another?\nPlease.<|endoftext|>"
        "The Nile,\nin Africa.<|endoftext|>",
    ),
    "vicuna": Style(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}"
        "{% elif m.role == 'user' %}{{ 'USER: ' + m.content }}"
        "{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ("</s>",),
        "</s>",
    ),
    "not prefix-stable": Style(
        "{{ messages | length }} messages\n{% for m in messages %}"
        "{{ '<|' + m.role + '|>' }}{% if loop.last %}{{ '(last)\\n' }}{% endif %}{{ m.content }}"
        "{{ eos_token }}{% endfor %}",
        ("</s>",),
        "</s>",
    ),
    "with generation marks": Style(
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content | upper }}{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("</s>",),
        "</s>",
    ),
}


def tokenizer(*special: str, template: str | None = None) -> FastTokenizer:
    """Return a byte-level BPE with special tokens, the first of which ends texts."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    text = [message.content for message in TALK] * 4 + ["USER: ASSISTANT: user assistant system"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(text, trainer)
    config = {"bos_token": "<s>" if "<s>" in special else None, "chat_template": template}
    return FastTokenizer(inner, end_of_text=special[0], config=config)
