"""Loading a Hugging Face model: from a folder or the hub, from its configuration, or not at all.

Shared by the components over Hugging Face models; each names the auto class that makes its model.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from llmforge import Problem
from llmforge.errors import RecipeError
from llmforge.interfaces import RunContext
from llmforge_plugins._pretrained import (
    PretrainedError,
    Repository,
    Source,
    find_source,
    longest_sequence,
    read_config,
)
from llmforge_plugins.models._hf_module import AS_PUBLISHED
from llmforge_plugins.models._hf_options import too_long
from llmforge_plugins.models._weight_files import few, is_outline, resolution, weights_folder

_DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
_WITHOUT_WEIGHTS = "set from_scratch = true to start from random weights"
_SHOWN = 3
"""Names of tensors that a message has at most."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with what a run records of it.

    Attributes:
        model: the model of ``transformers``.
        resolution: ``repository`` and ``commit``, or ``folder``.
    """

    model: Any
    resolution: dict[str, Any]


def load(
    options: Any,
    run: RunContext,
    *,
    auto_class: str,
    vocab_size: int,
    name: str,
    new: Sequence[str] = (),
    **settings: Any,
) -> Loaded:
    """Return the model that ``options`` name, with room for ``vocab_size`` tokens.

    On the meta device, in fake mode and where a checkpoint is about to fill it, no weights are
    read.

    Args:
        options: :class:`~llmforge_plugins.models._hf_options.PretrainedOptions`.
        run: the run; told in a notice when the embedding has to grow.
        auto_class: of ``transformers``, such as ``AutoModelForCausalLM``.
        vocab_size: ids that the tokenizer has.
        name: of the component, for messages.
        new: first parts of the names of weights that may be missing, and are drawn then.
        settings: further values of the configuration, such as ``num_labels``.

    Raises:
        PretrainedError: the model is not there or not as it should be.
        RecipeError: ``context`` or ``freeze`` do not fit it.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    recorded = run.resolved.get("model", {})
    outline = run.filled or is_outline()
    if run.filled and recorded.get("architecture") and not options.trust_remote_code:
        source, config = None, _config_of(recorded["architecture"])
    else:
        source = find_source(options.path, revision=options.revision, run=run)
        config = _config_in(source, options)
    for key, value in settings.items():
        setattr(config, key, value)
    _check_context(options, config, name=name)
    auto = getattr(transformers, auto_class)
    grown = vocab_size > _vocabulary(config)
    if outline or options.from_scratch:
        if grown:
            config.get_text_config().vocab_size = vocab_size
        model = _from_config(auto, config, options)
    else:
        assert source is not None
        model = _from_weights(auto, source, config, options, new=new)
        if grown:
            grow_vocabulary(model, vocab_size)
        if options.quantize != "none":
            from llmforge_plugins.models._hf_quantize import quantize

            quantize(model, options.quantize, device=torch.get_default_device())
        model = model.to(torch.get_default_device())
    if grown and not outline:
        run.notice(
            f"the tokenizer has {vocab_size:,} entries, the embedding of '{options.path}' fewer: "
            "it grew, and new rows are "
            + ("random" if options.from_scratch else "the mean of the old ones")
        )
    setattr(model, AS_PUBLISHED, not grown and not options.from_scratch)
    freeze(model, options.freeze, name=name)
    known = {key: value for key, value in recorded.items() if key != "architecture"}
    found = resolution(source) if source is not None else known
    return Loaded(model=model, resolution=found)


def causal_problems(options: Any, run: RunContext, *, key: str) -> list[Problem]:
    """Return why the model cannot be trained as a causal one, by its ``config.json`` alone."""
    config = read_config(find_source(options.path, revision=options.revision, run=run))
    if wrong := not_causal(config, trusted=options.trust_remote_code):
        return [Problem(key=key, message=f"'{options.path}' {wrong[0]}", remedy=wrong[1])]
    return []


def not_causal(config: Mapping[str, Any], *, trusted: bool) -> tuple[str, str] | None:
    """Return why a model is not a causal language model, and the remedy; None when it is one."""
    from transformers.models.auto import modeling_auto as auto

    kind = str(config.get("model_type", ""))
    if "auto_map" in config and kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if trusted:
            return None
        return (
            f"('{kind}') needs model code that comes with the weights",
            "if you trust its source, set trust_remote_code = true and revision to a commit",
        )
    if config.get("is_encoder_decoder"):
        return f"('{kind}') is an encoder-decoder", "use the model hf-seq2seq"
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not config.get("is_decoder"):
        return f"('{kind}') is an encoder", "use the model hf-encoder"
    if kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return (
            f"is of the type '{kind}', which transformers {transformers.__version__} does not have "
            "as a causal language model",
            "check config.json, or install a newer transformers",
        )
    return None


def grow_vocabulary(model: Any, size: int) -> None:
    """Give the embeddings ``size`` rows; new ones are the mean of the old ones.

    The mean is what adds least to a softmax over the old entries (Hewitt, "Initializing New Word
    Embeddings for Pretrained Language Models", 2021).
    """
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size, mean_resizing=False)
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    tensors = {
        id(tensor): tensor
        for part in parts
        if part is not None
        for tensor in (part.weight, getattr(part, "bias", None))
        if tensor is not None and tensor.shape[0] == size
    }
    with torch.no_grad():
        for tensor in tensors.values():
            tensor[old:] = tensor[:old].float().mean(0).to(tensor.dtype)


def freeze(model: nn.Module, patterns: Sequence[str], *, name: str) -> None:
    """Exclude the parameters that match a pattern from training.

    Raises:
        RecipeError: a pattern matches none, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    problems = []
    for pattern in patterns:
        matched = fnmatch.filter(parameters, pattern)
        for found in matched:
            parameters[found].requires_grad_(False)
        if not matched:
            problems.append(
                Problem(
                    key=f"model.{name}.freeze",
                    message=f"'{pattern}' matches no parameter",
                    remedy=_similar(pattern, parameters),
                )
            )
    if not problems and not any(p.requires_grad for p in parameters.values()):
        message = "every parameter is frozen: there is nothing to train"
        problems.append(Problem(key=f"model.{name}.freeze", message=message))
    if problems:
        raise RecipeError(problems)


def _similar(pattern: str, names: Mapping[str, Any]) -> str:
    import difflib

    wanted = pattern.strip("*.")
    inside = [name for name in names if wanted and wanted in name]
    near = inside or difflib.get_close_matches(pattern, names, n=_SHOWN, cutoff=0.3)
    examples = near[:_SHOWN] or list(names)[:_SHOWN]
    shown = ", ".join(examples)
    return f"patterns match whole names, such as {shown}; '*' stands for any characters"


def _vocabulary(config: Any) -> int:
    return int(config.get_text_config().vocab_size)


def _check_context(options: Any, config: Any, *, name: str) -> None:
    longest = longest_sequence(config.to_dict())
    if longest is not None and options.context > longest:
        raise RecipeError([too_long(options.context, longest, key=f"model.{name}")])


def _config_of(content: Mapping[str, Any]) -> Any:
    return transformers.CONFIG_MAPPING[content["model_type"]].from_dict(dict(content))


def _config_in(source: Source, options: Any) -> Any:
    content = read_config(source)
    path = source.file("config.json")
    assert path is not None
    if options.trust_remote_code and isinstance(source, Repository):
        _fetch_code(source)
    try:
        return transformers.AutoConfig.from_pretrained(
            path.parent, trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:  # each configuration class checks its values in its own way
        raise PretrainedError(
            f"{path} cannot be used ({content.get('model_type', 'no model_type')}): "
            f"{_first_line(error)}",
            remedy="restore the file; a newer architecture needs a newer transformers",
        ) from error


def _fetch_code(source: Repository) -> None:
    import huggingface_hub

    huggingface_hub.snapshot_download(
        source.name,
        revision=source.commit or source.revision,
        allow_patterns=["*.py"],
        local_files_only=source.offline,
    )


def _from_config(auto: Any, config: Any, options: Any) -> Any:
    with _explained(f"'{options.path}'"):
        return auto.from_config(config, **_made(options))


def _made(options: Any) -> dict[str, Any]:
    chosen = {} if options.attn == "auto" else {"attn_implementation": options.attn}
    return {
        "dtype": _DTYPES[options.dtype],
        "trust_remote_code": options.trust_remote_code,
        **chosen,
    }


def _from_weights(
    auto: Any, source: Source, config: Any, options: Any, *, new: Sequence[str]
) -> Any:
    """Read the weights into the host's memory, and check that they are the model's."""
    folder = weights_folder(source, remedy=_WITHOUT_WEIGHTS)
    with torch.device("cpu"), _explained(f"the weights in {folder}"):
        model, found = auto.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_made(options),
        )
    _check_weights(found, folder, new=new)
    return model


def _check_weights(found: Mapping[str, Any], folder: Path, *, new: Sequence[str]) -> None:
    """Refuse weights that are not those of the model; ``found`` is what transformers tells."""
    mismatched = sorted(str(entry[0]) for entry in found.get("mismatched_keys", ()))
    absent = sorted(str(key) for key in found.get("missing_keys", ()))
    missing = [key for key in absent if key.partition(".")[0] not in new]
    wrong = [
        f"{what}: {few(names)}"
        for what, names in (("missing", missing), ("of another shape", mismatched))
        if names
    ]
    if wrong:
        raise PretrainedError(
            f"the weights in {folder} are not those of the model in its config.json; "
            + "; ".join(wrong),
            remedy="download both again; from_scratch = true starts from random weights",
        )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise PretrainedError(
            f"{what} cannot be loaded: {_first_line(error)}", remedy="install what it needs"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PretrainedError(
            f"{what} cannot be loaded: {_first_line(error)}",
            remedy="download the model again; attn = 'eager' helps where a kernel is refused",
        ) from error
    except Exception as error:  # safetensors raises a type of its own, which derives from nothing
        raise PretrainedError(
            f"{what} cannot be read: {_first_line(error)}", remedy="download them again"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
