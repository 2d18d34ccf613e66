"""LoRA in a model, by peft's injection: the model stays the object it was."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from llmforge.errors import ExportError, Problem, RecipeError
from llmforge.interfaces import LanguageModel, model_blocks

_ADAPTER = "default"
_SHOWN = 4
_CHANGE_BASE = ("pissa", "olora")
_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
}
"""What peft calls the tasks of classes of ``transformers``, by the ends of their names."""


class LoraAdapter:
    """Implements :class:`llmforge.interfaces.Adapter`.

    Args:
        options: of ``[adapter.lora]``.
        key: of the option table, for messages.
    """

    def __init__(self, options: Any, *, key: str) -> None:
        self._options = options
        self._key = key

    def apply(self, model: LanguageModel) -> None:
        """Put the matrices beside the targets and freeze everything else.

        Raises:
            RecipeError: a name matches no module, or one that cannot be adapted.
        """
        module = _own_module(model)
        options = self._options
        config = LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=self._targets(module),
            use_rslora=options.rslora,
            use_dora=options.dora,
            init_lora_weights=self._init(module),
            modules_to_save=self._modules_to_save(module),
        )
        with self._explained("targets"):
            inject_adapter_in_model(config, module, adapter_name=_ADAPTER)

    def merge(self, model: LanguageModel) -> None:
        """Add the matrices to the weights they are beside, and put the plain modules back.

        Raises:
            ExportError: those weights are in 8 or 4 bits, which would round what was trained.
        """
        root = _own_module(model)
        if any(hasattr(parameter, "unpacked_numel") for parameter in root.parameters()):
            raise ExportError(
                "the adapter cannot be merged: the base is in 8 or 4 bits, and rounding would "
                "lose what it learned",
                remedy="export the adapter alone, without --merge; peft can merge it into the "
                "base's full weights",
            )
        for name, module in list(root.named_modules()):
            plain: nn.Module | None = None
            if isinstance(module, ModulesToSaveWrapper):
                plain = module.modules_to_save[_ADAPTER]
            elif isinstance(module, BaseTunerLayer):
                module.merge()
                plain = module.get_base_layer()
            if plain is not None:
                root.set_submodule(name, plain)

    def save_hugging_face(self, model: LanguageModel, directory: Path) -> None:
        """Write the matrices alone, as ``PeftModel`` reads them.

        Raises:
            ExportError: the weights they are beside are not those of a published model.
        """
        module: Any = _own_module(model)
        source: Mapping[str, str] = getattr(model, "resolution", {})
        base = source.get("repository") or source.get("folder")
        if base is None or not getattr(model, "is_as_published", False):
            raise ExportError(
                "the adapter alone is of no use: the model it changes is not a published one, "
                "or has got a larger vocabulary",
                remedy="--merge writes the whole model",
            )
        if self._options.init in _CHANGE_BASE:
            raise ExportError(
                f'the adapter alone is of no use: {self._key}.init = "{self._options.init}" has '
                "changed the weights beside it too",
                remedy="--merge writes the whole model",
            )
        config = copy.copy(module.peft_config[_ADAPTER])
        config.base_model_name_or_path, config.revision = base, source.get("commit")
        config.task_type, config.inference_mode = _task(module), True
        config.save_pretrained(str(directory))
        weights = get_peft_model_state_dict(module, adapter_name=_ADAPTER)
        save_file(
            {f"base_model.model.{name}": weights[name].contiguous() for name in sorted(weights)},
            directory / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )

    def _init(self, module: nn.Module) -> bool | str:
        on_meta = any(parameter.is_meta for parameter in module.parameters())
        # without values there is nothing to decompose
        return True if self._options.init == "default" or on_meta else str(self._options.init)

    def _targets(self, module: nn.Module) -> list[str] | str | None:
        """Return what peft takes as its targets; None for its own choice."""
        wanted = self._options.targets
        pretrained = hasattr(getattr(module, "config", None), "model_type")
        if wanted == "auto" and pretrained:
            return None
        if wanted == "all-linear" and pretrained:
            return str(wanted)
        inside = _linear_in_blocks(module)
        if isinstance(wanted, str):
            if not inside:
                self._refuse("targets", "the model has no linear maps to adapt")
            return inside
        matched = self._matched("targets", wanted, module)
        # what reads such a weight by itself would pass by the matrices beside it
        read_alone = _output_name(module) if pretrained else None
        wrong = [name for name in matched if name == read_alone]
        if not pretrained:
            wrong = [name for name in matched if name not in inside]
        if wrong:
            self._refuse(
                "targets",
                f"'{wrong[0]}' is no linear map inside the model's blocks",
                f"name some of {_few(_endings(inside))}; modules_to_save trains others whole",
            )
        return list(wanted)

    def _modules_to_save(self, module: nn.Module) -> list[str] | None:
        wanted = self._options.modules_to_save
        self._matched("modules_to_save", wanted, module)
        return [*wanted, *(name for name in _new_head(module) if name not in wanted)] or None

    def _matched(self, option: str, wanted: Collection[str], module: nn.Module) -> list[str]:
        """Return the modules whose names are or end in a name of ``wanted``."""
        names = [name for name, _ in module.named_modules() if name]
        found = []
        for pattern in wanted:
            matched = [name for name in names if f".{name}".endswith(f".{pattern}")]
            if not matched:
                endings = _endings(names)
                near = difflib.get_close_matches(pattern.rpartition(".")[2], endings, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"such as {_few(endings)}"
                self._refuse(option, f"'{pattern}' matches no module of the model", hint)
            found += matched
        return found

    @contextmanager
    def _explained(self, option: str) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it puts right by itself
                yield
        except (ValueError, NotImplementedError, TypeError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            message = f"peft refuses it: {text[0]}"
            if "specify `target_modules`" in text[0]:
                message = "peft knows no targets for this architecture"
            self._refuse(option, message, 'set targets = "all-linear", or name linear maps')

    def _refuse(self, option: str, message: str, remedy: str = "") -> None:
        problem = Problem(key=f"{self._key}.{option}", message=message, remedy=remedy)
        raise RecipeError([problem]) from None


def _task(module: nn.Module) -> str | None:
    """Return the task of a model in peft's words, None when it has no word for it."""
    name = type(module).__name__
    return next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)


def _own_module(model: LanguageModel) -> nn.Module:
    """Return the module whose children are replaced: the wrapped one, which peft knows better."""
    return cast("nn.Module", getattr(model, "inner", model))


def _linear_in_blocks(module: nn.Module) -> list[str]:
    """Return the linear maps of the blocks by name; of a model without blocks, all."""
    inside = {part for block in model_blocks(module) for part in block.modules()}
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and (not inside or part in inside)
    ]


def _output_name(module: Any) -> str | None:
    """Return the name of a pre-trained model's output matrix, None when it has none."""
    output = module.get_output_embeddings()
    return next((name for name, part in module.named_modules() if part is output), None)


def _new_head(module: Any) -> list[str]:
    """Return the modules of a classifier that no pre-training has trained: all beside the base."""
    if not type(module).__name__.endswith("ForSequenceClassification"):
        return []
    return [
        name
        for name, child in module.named_children()
        if name != module.base_model_prefix and any(True for _ in child.parameters())
    ]


def _endings(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _few(names: Collection[str]) -> str:
    shown: Mapping[str, None] = dict.fromkeys(list(names)[:_SHOWN])
    return ", ".join(shown)
