"""What models, tokenizers and adapters may offer so that ``transformers`` can read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from llmforge.interfaces.model import LanguageModel
    from llmforge.interfaces.tokenizer import Tokenizer


@runtime_checkable
class HuggingFaceModel(Protocol):
    """A model that has a form in ``transformers``, which ``forge export`` writes."""

    def save_hugging_face(
        self, directory: Path, *, tokenizer: Tokenizer, max_shard_size: int
    ) -> None:
        """Write ``config.json``, ``generation_config.json`` and the weights into ``directory``.

        The weights are ``model.safetensors``, or shards of at most ``max_shard_size`` bytes with
        their index, in the number format that the model has. ``from_pretrained`` of the auto class
        for its form then gives a model with the same logits. Equal models give equal files.

        Args:
            directory: exists, and is published as a whole afterwards.
            tokenizer: of the run; its ids of special tokens are those of the configuration.
            max_shard_size: bytes of one file of weights at most, but for a larger tensor.

        Raises:
            ExportError: the model has no such form; the message names the option in the way.
        """
        ...


@runtime_checkable
class HuggingFaceTokenizer(Protocol):
    """A tokenizer that ``AutoTokenizer`` can read."""

    def save_hugging_face(self, directory: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into ``directory``.

        ``AutoTokenizer.from_pretrained`` then gives equal ids for equal texts.
        """
        ...


@runtime_checkable
class HuggingFaceAdapter(Protocol):
    """An adapter that ``PeftModel.from_pretrained`` can read."""

    def save_hugging_face(self, model: LanguageModel, directory: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``directory``.

        Args:
            model: has the adapter, trained.
            directory: exists, and is published as a whole afterwards.

        Raises:
            ExportError: the base of the adapter is no model that others can load.
        """
        ...
