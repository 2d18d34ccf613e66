"""A checkpoint's model with all its weights, an adapter merged where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmforge.interfaces import Adapter
from llmforge.plugins import build_manager, call_factory, load

if TYPE_CHECKING:
    from torch import Tensor

    from llmforge.generation.load import LoadedModel


def adapter_of(loaded: LoadedModel) -> Adapter | None:
    """Return the adapter that the model of a checkpoint has, None when it has none."""
    from llmforge.run.setup.model_build import adapter_name

    if adapter_name(loaded.run) is None:
        return None
    selection = loaded.recipe.selected("adapter")
    component = load(selection.kind, selection.name)(selection.options)
    built: Adapter = call_factory(build_manager([component]), "forge_build_adapter", run=loaded.run)
    return built


def merge_adapter(loaded: LoadedModel) -> None:
    """Add the weights of an adapter, if there is one, to those it changes."""
    if (adapter := adapter_of(loaded)) is not None:
        adapter.merge(loaded.model)


def whole_weights(model: Any) -> dict[str, Tensor]:
    """Return all parameters and persistent buffers by name, shared ones once, names in order."""
    kept = model.state_dict().keys()
    tensors = {name: value.detach() for name, value in model.named_parameters()}
    tensors |= {name: value for name, value in model.named_buffers() if name in kept}
    return {name: value.contiguous() for name, value in sorted(tensors.items())}
