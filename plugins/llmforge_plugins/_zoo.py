"""Pre-trained models that have a name of one word: what they are and which component runs them.

Shared by the kinds ``model`` and ``tokenizer``. Sizes are those of the published configurations,
licences those of the model cards; CodeBERT's card names none, its repository is MIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A published model.

    Attributes:
        repository: its name on the hub.
        component: the model component that runs it.
        layers: blocks; of an encoder-decoder, those of each half.
        width: size of the residual stream.
        heads: attention heads of a block.
        parameters: of the whole model as the component trains it, shared ones once.
        context: the longest sequence in tokens.
        vocab_size: rows of its embedding.
        tokenizer: its tokenizer, in words.
        licence: of the weights.
        about: what it was trained on, in a few words.
    """

    repository: str
    component: str
    layers: int
    width: int
    heads: int
    parameters: int
    context: int
    vocab_size: int
    tokenizer: str
    licence: str
    about: str

    def facts(self) -> dict[str, Any]:
        """Return what ``forge models`` shows of it, and the recipe keys that select it."""
        return {
            "layers": self.layers,
            "width": self.width,
            "heads": self.heads,
            "parameters": self.parameters,
            "context": self.context,
            "vocabulary": self.vocab_size,
            "tokenizer": self.tokenizer,
            "licence": self.licence,
            "source": f"https://huggingface.co/{self.repository}",
            "about": self.about,
            "model": self.component,
        }


_GPT2_TOKENS = "byte-level BPE, 50,257 entries"
_CODE_TOKENS = "byte-level BPE, 32,100 entries"
_SMALL: Mapping[str, Any] = {"layers": 12, "width": 768, "heads": 12}
_MEDIUM: Mapping[str, Any] = {"layers": 24, "width": 1024, "heads": 16}
_GPT2: Mapping[str, Any] = {
    "component": "hf-causal",
    "context": 1024,
    "vocab_size": 50_257,
    "tokenizer": _GPT2_TOKENS,
    "licence": "MIT",
}
_T5: Mapping[str, Any] = {"component": "hf-seq2seq", "context": 512, "licence": "Apache-2.0"}
_T5_SMALL: Mapping[str, Any] = {"layers": 6, "width": 512, "heads": 8}
_T5_TOKENS: Mapping[str, Any] = {
    "vocab_size": 32_128,
    "tokenizer": "SentencePiece unigram, 32,100 entries",
}
_CODET5: Mapping[str, Any] = {"vocab_size": 32_100, "tokenizer": _CODE_TOKENS}
_CODE_SEARCH = "functions of eight programming languages and their comments"

ZOO: Mapping[str, ZooModel] = MappingProxyType(
    {
        "gpt2-small": ZooModel(
            repository="openai-community/gpt2",
            parameters=124_439_808,
            about="text of web pages that Reddit linked to",
            **_GPT2,
            **_SMALL,
        ),
        "gpt2-medium": ZooModel(
            repository="openai-community/gpt2-medium",
            parameters=354_823_168,
            about="text of web pages that Reddit linked to",
            **_GPT2,
            **_MEDIUM,
        ),
        "dialogpt-small": ZooModel(
            repository="microsoft/DialoGPT-small",
            parameters=124_439_808,
            about="147 million dialogues of Reddit; turns end with <|endoftext|>",
            **_GPT2,
            **_SMALL,
        ),
        "dialogpt-medium": ZooModel(
            repository="microsoft/DialoGPT-medium",
            parameters=354_823_168,
            about="147 million dialogues of Reddit; turns end with <|endoftext|>",
            **_GPT2,
            **_MEDIUM,
        ),
        "codet5-small": ZooModel(
            repository="Salesforce/codet5-small",
            parameters=60_492_288,
            about=_CODE_SEARCH,
            **_T5,
            **_T5_SMALL,
            **_CODET5,
        ),
        "codet5-base": ZooModel(
            repository="Salesforce/codet5-base",
            parameters=222_882_048,
            about=_CODE_SEARCH,
            **_T5,
            **_SMALL,
            **_CODET5,
        ),
        "codebert-base": ZooModel(
            repository="microsoft/codebert-base",
            component="hf-encoder",
            parameters=124_697_433,
            context=512,
            vocab_size=50_265,
            tokenizer="byte-level BPE, 50,265 entries",
            licence="MIT (of its repository)",
            about="functions of six programming languages and their comments",
            **_SMALL,
        ),
        "t5-small": ZooModel(
            repository="google-t5/t5-small",
            parameters=60_506_624,
            about="web pages (C4) and supervised tasks as text to text",
            **_T5,
            **_T5_SMALL,
            **_T5_TOKENS,
        ),
        "t5-base": ZooModel(
            repository="google-t5/t5-base",
            parameters=222_903_552,
            about="web pages (C4) and supervised tasks as text to text",
            **_T5,
            **_SMALL,
            **_T5_TOKENS,
        ),
    }
)


def presets_of(component: str) -> dict[str, dict[str, Any]]:
    """Return the zoo's models that ``component`` runs, as its ``presets`` gives them."""
    return {
        name: {
            **model.facts(),
            "settings": {
                "model.name": component,
                f"model.{component}.path": name,
                "tokenizer.name": "from-model",
            },
        }
        for name, model in ZOO.items()
        if model.component == component
    }
