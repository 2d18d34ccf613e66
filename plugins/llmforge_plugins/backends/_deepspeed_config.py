"""DeepSpeed's configuration: what the recipe decides, what a user may add, and what is refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge_plugins.backends._deepspeed_import import captured_output, import_deepspeed

_TABLE = "backend.deepspeed"

_DECIDED: Mapping[str, str] = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "managed_gradient_accumulation": "train.batch_size and train.micro_batch_size",
    "optimizer": "[optimizer]",
    "scheduler": "[schedule]",
    "gradient_clipping": "train.grad_clip",
    "bf16": "train.precision",
    "bfloat16": "train.precision",
    "fp16": "train.precision",
    "amp": "train.precision",
    "torch_autocast": "train.precision",
    "activation_checkpointing": "train.activation_checkpointing",
    "checkpoint": "[checkpoint]",
    "tensorboard": "[tracker]",
    "wandb": "[tracker]",
    "csv_monitor": "[tracker]",
    "comet": "[tracker]",
    "zero_optimization.stage": f"{_TABLE}.stage",
    "zero_optimization.offload_optimizer.device": f"{_TABLE}.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": f"{_TABLE}.nvme_path",
    "zero_optimization.offload_param.device": f"{_TABLE}.offload_param",
    "zero_optimization.offload_param.nvme_path": f"{_TABLE}.nvme_path",
}
"""Keys that the recipe has a key of its own for."""

_UNSUPPORTED: Mapping[str, str] = {
    "prescale_gradients": "gradients are summed over ranks and divided by the global batch",
    "gradient_predivide_factor": "gradients are summed over ranks and divided by the global batch",
    "gradient_allreduce_op": "gradients are summed over ranks and divided by the global batch",
    "zero_optimization.zenflow": "its state cannot be saved in llmforge's checkpoints",
    "zero_optimization.compute_grad_norm": "the gradient norm is a metric of every run",
    "zero_optimization.zero_hpz_partition_size": "its state cannot be saved in checkpoints",
}

_ALLOWED = frozenset(
    {
        "aio",
        "comms_logger",
        "communication_data_type",
        "data_types",
        "disable_python_gc",
        "dump_state",
        "flops_profiler",
        "memory_breakdown",
        "steps_per_print",
        "timers",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)
"""Sections of DeepSpeed's configuration that make sense here."""


def build_config(
    run: RunContext, options: Any, *, precision: str, parameters: int
) -> dict[str, Any]:
    """Return the configuration for ``deepspeed.initialize``.

    Args:
        run: the run, for clipping.
        options: of ``[backend.deepspeed]``.
        precision: ``fp32`` or ``bf16``.
        parameters: elements of the model; buffers need not be larger.
    """
    zero: dict[str, Any] = {
        "stage": options.stage,
        "reduce_bucket_size": min(500_000_000, max(1, parameters)),
    }
    for key in ("offload_optimizer", "offload_param"):
        place = getattr(options, key)
        if place != "none":
            zero[key] = {"device": place}
            if place == "nvme":
                zero[key]["nvme_path"] = options.nvme_path
    own: dict[str, Any] = {
        # one sequence and one micro-batch: the engine is called where a step ends
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": None,
        # stage 0 neither reports the norm it clips to nor keeps fp32 weights beside bf16 ones
        "gradient_clipping": run.train.grad_clip if options.stage else 0.0,
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    if precision == "bf16" and options.stage:
        own |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    elif precision == "bf16":
        own["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return _merged(own, options.config)


def config_problems(run: RunContext, options: Any) -> list[Problem]:
    """Return what DeepSpeed or llmforge would not take of ``options``."""
    problems = _refused(options.config)
    if problems:
        return problems
    deepspeed = import_deepspeed(_device_type(run.train.device))
    config = build_config(run, options, precision="fp32", parameters=1)
    with captured_output():
        try:
            deepspeed.runtime.zero.config.DeepSpeedZeroConfig(**config["zero_optimization"])
            deepspeed.DeepSpeedConfig(config)
        except ValidationError as error:
            return [_of_validation(item) for item in error.errors()]
        except (ValueError, AssertionError, TypeError, KeyError) as error:
            return [Problem(key=f"{_TABLE}.config", message=f"DeepSpeed refuses it: {error}")]
        if "nvme" in (options.offload_optimizer, options.offload_param):
            return _nvme_problems()
    return []


def _device_type(asked: str) -> str:
    """Return what DeepSpeed can be set up for: a GPU only where there is one."""
    if asked != "auto" and not asked.startswith("cuda"):
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _nvme_problems() -> list[Problem]:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if AsyncIOBuilder().is_compatible(verbose=False):
        return []
    return [
        Problem(
            key=_TABLE,
            message="offloading to nvme needs the headers of libaio and a C++ compiler",
            remedy='apt install libaio-dev g++, or offload to "cpu"',
        )
    ]


def _refused(config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for path in _paths(config):
        key = f"{_TABLE}.config.{path}"
        if path in _DECIDED:
            remedy = f"set {_DECIDED[path]} instead"
            problems.append(Problem(key=key, message="the recipe decides this", remedy=remedy))
        elif path in _UNSUPPORTED:
            problems.append(Problem(key=key, message=f"not supported: {_UNSUPPORTED[path]}"))
    for name in config:
        if name in _ALLOWED or name in _DECIDED or name in _UNSUPPORTED:
            continue
        near = difflib.get_close_matches(name, _ALLOWED, n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(_ALLOWED))}"
        problems.append(
            Problem(key=f"{_TABLE}.config.{name}", message="unknown key", remedy=remedy)
        )
    return problems


def _paths(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted paths of all keys, those of tables too."""
    found = []
    for name, value in table.items():
        found.append(prefix + name)
        if isinstance(value, Mapping):
            found += _paths(value, f"{prefix}{name}.")
    return found


def _of_validation(error: Any) -> Problem:
    where = ".".join(str(part) for part in error["loc"])
    unknown = error["type"] == "extra_forbidden"
    return Problem(
        key=f"{_TABLE}.config.zero_optimization" + (f".{where}" if where else ""),
        message="unknown key" if unknown else str(error["msg"]),
        remedy="see DeepSpeed's documentation of zero_optimization" if unknown else "",
    )


def _merged(own: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` with the keys of ``added``, table by table."""
    merged = dict(own)
    for name, value in added.items():
        mine = merged.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(mine, value)
        else:
            merged[name] = value
    return merged
