"""What all components over Hugging Face models have in common, without a heavy package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge import Component, Problem, hookimpl, install_command
from llmforge.interfaces import RunContext
from llmforge_plugins._pretrained import (
    PretrainedError,
    Repository,
    find_source,
    known_longest,
    longest_sequence,
    path_problem,
    read_config,
)
from llmforge_plugins._zoo import presets_of

DEFAULT_CONTEXT = 1024
_SHARDING = ("fsdp", "deepspeed")


class PretrainedOptions(llmforge.Options):
    """Options of every component that trains a Hugging Face model."""

    path: Annotated[str, Field(min_length=1)]
    """A name that ``forge models list`` shows (``gpt2-small``), a name on the hub
    (``openai-community/gpt2``), or a folder that ``save_pretrained`` wrote."""
    revision: Annotated[str, Field(min_length=1)] = "main"
    """Branch, tag or commit on the hub. The run records the commit and keeps to it."""
    trust_remote_code: bool = False
    """Run the model code that comes with the weights. Only of a source you trust; from the hub,
    give a commit as ``revision``."""
    from_scratch: bool = False
    """Start from random weights; ``path`` gives only the architecture."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the weights. ``auto`` is fp32 whatever the files have: small updates get
    lost in bf16."""
    attn: Literal["auto", "sdpa", "eager"] = "auto"
    """Kernel of attention: PyTorch's fused one or plain products; ``auto`` is ``sdpa`` where the
    architecture has it."""
    context: Annotated[int, Field(gt=0)] = DEFAULT_CONTEXT
    """Longest sequence in tokens; when absent 1,024, or the model's own maximum if that is known
    to be less."""
    freeze: list[str] = Field(default_factory=list)
    """Parameters that are not trained: patterns of their names, such as ``transformer.wte.*``."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Keep the linear maps of the blocks frozen in 8 bits (LLM.int8) or 4 bits (NF4, as QLoRA has
    it), and train an adapter beside them. Needs the package ``bitsandbytes``."""

    @model_validator(mode="before")
    @classmethod
    def _context_of_the_model(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "context" in values:
            return values
        path = values.get("path")
        longest = known_longest(path) if isinstance(path, str) and path else None
        if longest is None or longest >= DEFAULT_CONTEXT:
            return values
        return {**values, "context": longest}


class PretrainedModel(Component, ABC):
    """What the components over Hugging Face models share: their presets and their preflight.

    Attributes:
        zoo_name: of the component in the zoo.
    """

    requires = ("transformers", "huggingface_hub")
    zoo_name: ClassVar[str]

    @classmethod
    def presets(cls, vocab_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the published models it runs by their names of one word."""
        del vocab_size  # they come with their vocabulary
        return presets_of(cls.zoo_name)

    def missing_packages(self) -> list[Problem]:
        """Return a problem for every package that is missing, that for ``quantize`` too."""
        found = super().missing_packages()
        if self.options.quantize != "none" and find_spec("bitsandbytes") is None:
            found.append(
                Problem(
                    key=f"model.{self.name}.quantize",
                    message=f'"{self.options.quantize}" needs the bitsandbytes package',
                    remedy=install_command("bitsandbytes"),
                )
            )
        return found

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the model, at its architecture and at the longest sequence it can take."""
        if self.missing_packages():
            return []
        key = f"model.{self.name}"
        found = source_problems(self.options, run, key=key) or self.wrong_model(run, key=key)
        return found + quantize_problems(self.options, run, key=key)

    @abstractmethod
    def wrong_model(self, run: RunContext, *, key: str) -> list[Problem]:
        """Return why the model is not of this component's kind, by its ``config.json``."""


def source_problems(options: PretrainedOptions, run: RunContext, *, key: str) -> list[Problem]:
    """Return what is wrong with path, revision and context, looking no further than config.json.

    Args:
        options: the options.
        run: the run.
        key: of the option table, such as ``model.hf-causal``.
    """
    if wrong := path_problem(options.path):
        return [Problem(key=f"{key}.path", message=wrong[0], remedy=wrong[1])]
    try:
        source = find_source(options.path, revision=options.revision, run=run)
        config = read_config(source)
    except PretrainedError as error:
        return [Problem(key=f"{key}.path", message=error.message, remedy=error.remedy)]
    problems = []
    longest = longest_sequence(config)
    if longest is not None and options.context > longest:
        problems.append(too_long(options.context, longest, key=key))
    if options.trust_remote_code and isinstance(source, Repository) and source.commit is None:
        problems.append(
            Problem(
                key=f"{key}.trust_remote_code",
                message=f"which commit of {source} runs here cannot be told",
                remedy="give the commit as revision",
            )
        )
    return problems


def quantize_problems(options: PretrainedOptions, run: RunContext, *, key: str) -> list[Problem]:
    """Return what keeps the linear maps from being quantised; ``key`` is of the option table."""
    if options.quantize == "none":
        return []
    key = f"{key}.quantize"
    backend = run.config.get("backend", {}).get("name")
    found = []
    if not run.config.get("adapter", {}).get("name"):
        message = "quantised weights do not train, and there is no adapter beside them"
        found.append(Problem(key=key, message=message, remedy='set adapter.name = "lora"'))
    if options.from_scratch:
        message = "random weights that never train are of no use"
        found.append(Problem(key=key, message=message, remedy="take from_scratch away"))
    if backend in _SHARDING:
        message = f"backend '{backend}' cannot shard quantised weights"
        found.append(Problem(key=key, message=message, remedy='set backend.name = "ddp"'))
    return found


def too_long(context: int, longest: int, *, key: str) -> Problem:
    """Return the problem of a context that the model cannot have."""
    return Problem(
        key=f"{key}.context",
        message=f"a context of {context:,} is more than the model's maximum of {longest:,}",
        remedy=f"set it to {longest} or less",
    )
