"""What an ``adapter`` component hands to the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llmforge.interfaces.model import LanguageModel


class Adapter(Protocol):
    """Changes a model before it is trained, and says which of its parameters train.

    Parameters that do not require a gradient afterwards are frozen: no optimizer sees them, and no
    checkpoint has them. They are identified by their content, so :meth:`apply` must leave equal
    models equal, whatever machine or device it is called on.
    """

    def apply(self, model: LanguageModel) -> None:
        """Change ``model`` in place, and set ``requires_grad`` of its parameters.

        The object stays the same, with its ``loss``, its ``new_cache`` and so on. New parameters
        are on the device of those beside them, which may be the meta device. Randomness comes from
        torch's generator, which the core has seeded.

        Raises:
            RecipeError: the options do not fit this model.
        """
        ...

    def merge(self, model: LanguageModel) -> None:
        """Fold what :meth:`apply` added, trained since, into the weights of ``model``, in place.

        Parameters then have the names and shapes they had before :meth:`apply`, and the model
        computes the same up to rounding.

        Raises:
            RecipeError: that cannot be done with these options.
        """
        ...
