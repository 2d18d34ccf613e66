"""What an ``objective`` component hands to the core: how examples are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from llmforge.errors import DataError, PluginError
from llmforge.interfaces.examples import Conversation, Example, Message, Preference, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from llmforge.interfaces.model import Batch

FORMS = frozenset({"next_token", "seq2seq", "mlm", "classify"})
"""What models are made for; a model and an objective say in ``supports`` which they have.

The tensors of a batch, int64, by form:

* ``next_token``: ``inputs`` and ``targets`` [rows, length];
* ``seq2seq``: ``inputs`` [rows, source length], ``lengths`` [rows] of the sources, ``targets``
  [rows, target length];
* ``mlm``: ``inputs`` [rows, length], ``lengths`` [rows], ``places`` and ``targets`` [rows, hidden]:
  where something is hidden, and what;
* ``classify``: ``inputs`` [rows, length], ``lengths`` [rows], ``targets`` [rows].
"""

SEQUENCE_LOG_PROBS = "sequence_log_probs"
"""A form of objectives whose loss is made of the log-probabilities of whole sequences.

Language models that are :class:`~llmforge.interfaces.SequenceScorer` name it in ``supports``,
beside what they are made for. What is in a batch only the objective knows, but for ``targets``, of
shape [rows, …]: a row in which none is scored counts for nothing.
"""

PREFERENCES = "preferences"
"""What data ``supports`` whose examples are :class:`~llmforge.interfaces.Preference`, and the
objectives that learn from such alone: one is refused without the other."""

REFERENCE = "reference"
"""The tensor of a batch with what :meth:`Objective.reference` returned for its rows.

It is int32 and holds the bits of fp32, which ``tensor.view(torch.float32)`` shows: backends may
cast floating-point tensors of a batch to the precision they compute in.
"""

READING = frozenset({"mlm", "classify"})
"""Forms of models that write no text."""

MULTIPLE = 16
"""Batches are as long as their longest row, rounded up to this: few shapes, little padding."""


class ExampleEncoder(Protocol):
    """Makes tokens of the parts of an example.

    Attributes:
        context: tokens that a model reads of a row, at most.
        labels: names of the labels, where the data has any.
        vocab_size: number of ids.
        eos_id: the end-of-text token; None when there is none.
    """

    context: int
    labels: Sequence[str]
    vocab_size: int
    eos_id: int | None

    @property
    def special_ids(self) -> frozenset[int]:
        """Return the ids of all special tokens."""
        ...

    @property
    def mask_id(self) -> int:
        """Return the token that stands for one that is hidden.

        Raises:
            DataError: the tokenizer has none.
        """
        ...

    def conversation(self, messages: Sequence[Message]) -> Row:
        """Return a conversation laid out by the run's chat template.

        Raises:
            TemplateError: the template refuses it.
        """
        ...

    def text(self, text: str, pair: str | None = None) -> tuple[int, ...]:
        """Return the ids of a text, or of two, with the special tokens a model reads it with."""
        ...

    def cut(self, row: Row, longest: int | None = None) -> Sequence[Row]:
        """Return what the data's ``truncate`` makes of a row longer than ``longest`` tokens.

        Without ``longest`` it may have one token more than the context: the last is only a target.
        """
        ...


class Objective:
    """Next-token prediction, and the base of other objectives.

    Attributes:
        form: of the models it trains, one of ``FORMS`` or another that a model ``supports``.
        key: what its rows depend on beside data, template and tokenizer; JSON. Cached rows of
            another key are not used.
        packs: whether several rows may share one, each attending to itself only.
        ends_in_label: whether a row's last number is that of a label, and not a token.
        sequences: how many sequences of up to the context a row is made of.
        measures: names of what :meth:`evaluate` measures besides the loss; the component says so
            too, so that early stopping may ask for one.
        needs_reference: whether batches must have what :meth:`reference` returned for their rows.
    """

    form: ClassVar[str] = "next_token"
    packs: ClassVar[bool] = True
    ends_in_label: ClassVar[bool] = False
    sequences: ClassVar[int] = 1
    key: Sequence[Any] = ()
    measures: Sequence[str] = ()
    needs_reference: bool = False

    def open(self, encoder: ExampleEncoder) -> None:
        """Take what batches need of the tokenizer; called before anything else.

        Raises:
            DataError: the tokenizer cannot be used.
        """

    def rows(self, example: Example, encoder: ExampleEncoder) -> tuple[int, Sequence[Row]]:
        """Return the tokens of the whole example, and the rows that are used of it.

        Of a text without a question everything is learned, and where it ends.

        Raises:
            DataError: the example is not of a kind that can be learned from.
        """
        if isinstance(example, Conversation):
            row = encoder.conversation(example.messages)
        elif isinstance(example, Preference):
            raise DataError("it is a pair of answers", remedy='objective.name = "dpo"')
        else:
            ids = encoder.text(example.text, example.pair)
            if encoder.eos_id is not None and ids[-1:] != (encoder.eos_id,):
                ids = (*ids, encoder.eos_id)
            row = Row(ids, (False, *(True for _ in ids[1:])))
        return len(row.ids), encoder.cut(row)

    def prompt(self, text: str, encoder: ExampleEncoder) -> Sequence[int] | None:
        """Return the tokens a model is given to answer ``text``; None: as the core does it."""
        del text, encoder
        return None

    def targets(self, scored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many targets rows with so many scored tokens have: what divides the loss."""
        return scored

    def parts(
        self, ids: NDArray[Any], scored: NDArray[Any]
    ) -> Sequence[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Return the sequences of a row, each with a name for people, its ids and what is scored.

        For looking at rows; a row of one sequence has no name.
        """
        return [("", ids, scored)]

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of targets, as ``LanguageModel.loss`` does.

        An objective that has its own calls other methods of ``model`` in it, never ``model.loss``,
        whose place it takes. A row must count the same in any batch.
        """
        found: tuple[Tensor, Tensor] = model.loss(batch)
        return found

    def evaluate(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return [summed loss, sums of all that ``measures`` names], and the number of targets.

        In place of :meth:`loss` at evaluations, of objectives that have their own.
        """
        return self.loss(model, batch)

    def reference(self, model: Any, batch: Batch) -> Tensor:
        """Return numbers for each row, [rows, n], that ``model`` has before the first step.

        Asked once in a run, where ``needs_reference`` is true. The core keeps them in the run and
        in its checkpoints, and every batch has those of its rows as ``REFERENCE``.

        Raises:
            PluginError: a derived class that needs them does not say how.
        """
        del model, batch
        raise PluginError(f"the objective {type(self).__name__} has no method reference")

    def batch(
        self, rows: Sequence[tuple[Any, Any]], *, context: int, seeds: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Return rows as a batch; not asked of objectives of the form ``next_token``.

        Args:
            rows: ids and whether each is scored, arrays of shape [tokens].
            context: inputs of a row at most.
            seeds: of each row, 128 bits, for what is random in it: they follow from its place in
                training, however that is divided.

        Returns:
            Arrays by name, as the model's form has them.

        Raises:
            PluginError: a derived class of another form does not make them.
        """
        del rows, context, seeds
        raise PluginError(
            f"the objective {type(self).__name__} of the form '{self.form}' makes no batches",
            remedy="give it a method batch, as llmforge.interfaces.Objective describes it",
        )


def padded_length(lengths: Sequence[int], context: int) -> int:
    """Return how long a batch of rows is: as the longest, rounded up to a multiple."""
    return min(-(-max(lengths) // MULTIPLE) * MULTIPLE, context)


def padded_rows(rows: Sequence[Any], *, fill: int, context: int) -> NDArray[np.int64]:
    """Return arrays of ids as one, [rows, length], padded on the right with ``fill``."""
    import numpy as np

    length = padded_length([len(ids) for ids in rows], context)
    filled = np.full((len(rows), length), fill, np.int64)
    for place, ids in enumerate(rows):
        filled[place, : len(ids)] = ids
    return filled
