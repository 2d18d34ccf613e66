"""Tokenizer, data and events small enough to test other components with; no package is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llmforge import events
from llmforge.interfaces import ExampleEncoder, ExampleLayout

TEXTS: Mapping[str, Sequence[str]] = {
    "train": (
        "The lighthouse stood at the end of the pier. Every evening its lamp was lit.\n",
        "A river begins as a spring. It gathers streams on its way to the sea.\n",
        "Bees dance to tell each other where the flowers are.\n",
    ),
    "validation": ("The spring feeds the river, and the river feeds the sea.\n",),
}


class TinyTokenizer:
    """UTF-8 bytes, and one id for the end of a text."""

    vocab_size = 257
    eos_id: int | None = 256
    fingerprint = hashlib.sha256(b"llmforge.testing.TinyTokenizer 1").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of ``text``."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bytes of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; incomplete characters become U+FFFD."""
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def save(self, directory: Path) -> None:
        """Write nothing but a marker: there is nothing to learn."""
        (directory / "tiny.txt").write_text("bytes\n", encoding="utf-8")


class TinyChatTokenizer(TinyTokenizer):
    """Bytes with special tokens, for conversations and for texts with hidden parts."""

    vocab_size = 260
    fingerprint = hashlib.sha256(b"llmforge.testing.TinyChatTokenizer 1").hexdigest()
    special_tokens: Mapping[str, int] = {"<eos>": 256, "<bos>": 257, "<mask>": 258, "<turn>": 259}
    eos_token: str | None = "<eos>"
    bos_token: str | None = "<bos>"
    mask_token: str | None = "<mask>"
    chat_template: str | None = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )

    def encode_spans(
        self, text: str, *, special: bool
    ) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the bytes of ``text`` and the character that each is of."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        place = 0
        while place < len(text):
            names = self.special_tokens if special else {}
            found = next((name for name in names if text.startswith(name, place)), text[place])
            encoded = [names[found]] if found in names else list(found.encode())
            ids += encoded
            spans += [(place, place + len(found))] * len(encoded)
            place += len(found)
        return ids, spans

    def encode_whole(self, text: str, pair: str | None = None) -> Sequence[int]:
        """Return the bytes between the tokens that begin and end texts."""
        second = [] if pair is None else [256, *self.encode(pair)]
        return [257, *self.encode(text), *second, 256]


def example_encoder(*, context: int = 128, labels: Sequence[str] = ()) -> ExampleEncoder:
    """Return what makes tokens of examples, over :class:`TinyChatTokenizer`."""
    from llmforge.data.chat_template import chat_template
    from llmforge.data.encoder import Encoder

    tokenizer, layout = TinyChatTokenizer(), ExampleLayout(truncate="right")
    return Encoder(
        chat_template(layout, tokenizer),
        tokenizer,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        layout=layout,
        context=context,
        labels=labels,
    )


class TinyData:
    """Documents held in memory.

    Args:
        texts: documents by split; a few short sentences when absent.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]] = TEXTS) -> None:
        self._texts = {split: tuple(documents) for split, documents in texts.items()}
        self.splits: Sequence[str] = tuple(self._texts)
        self.fingerprint = hashlib.sha256(repr(self._texts).encode()).hexdigest()
        self.description = "a few sentences in memory"

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield the documents of ``split``."""
        return iter(self._texts[split])


def one_of_each_event(directory: str = "") -> tuple[events.Event, ...]:
    """Return one event of every kind in the order a run emits them.

    Args:
        directory: the run directory that ``RunStarted`` names.
    """
    return (
        events.RunStarted(
            run_id="test-run",
            attempt=1,
            restart=0,
            directory=directory,
            config={"run": {"tags": ["a", "b"]}, "train": {"max_steps": 20}},
            facts={"hardware": "CPU", "parameters": 1000},
        ),
        events.TrialStarted(sweep_id="sweep", trial_id="trial-1", parameters={"optimizer.lr": 0.1}),
        events.MetricsLogged(
            step=10, values={"train/loss": 2.5, "learning_rate": 1e-3}, time=1000.0
        ),
        events.HistogramsLogged(
            step=10, values={"weights/head": {"edges": [0.0, 0.5, 1.0], "counts": [3.0, 4.0]}}
        ),
        events.EvaluationEnded(
            step=20, split="validation", values={"val/loss": 2.0}, time=1001.0, is_best=True
        ),
        events.SamplesGenerated(
            step=20, samples=({"prompt": "The", "text": " end \u2013 für jetzt", "tokens": 5},)
        ),
        events.CheckpointSaved(
            step=20, path="checkpoints/step-00000020", size=4096, is_best=True, seconds=0.25
        ),
        events.CheckpointUploaded(step=20, url="memory://runs/test-run/step-00000020"),
        events.ArtifactWritten(name="loss", path="plots/loss.png", type="plot", step=20),
        events.TrialEnded(sweep_id="sweep", trial_id="trial-1", state="completed", value=2.0),
        events.RunFailed(step=20, message="what went wrong"),
        events.RunEnded(state="failed", reason="error", step=20, metrics={"val/loss": 2.0}),
    )
