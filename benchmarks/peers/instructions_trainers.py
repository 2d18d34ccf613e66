"""``transformers.Trainer`` and TRL's ``SFTTrainer`` on instructions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from peers.instructions import IGNORED, Instructions, Meter, read_rows


class Times(TrainerCallback):
    """Tells the meter about steps."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the time of a step."""
        del args, control
        self._meter.after_step(state.global_step)


class Counted:
    """Beside a trainer: counts the tokens of what it is about to compute."""

    meter: Meter

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """Count, then compute."""
        mask = inputs.get("attention_mask")
        real = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        self.meter.count(real=real, scored=int((inputs["labels"] != IGNORED).sum()))
        return super().compute_loss(model, inputs, *args, **more)  # type: ignore[misc]


class CountedTrainer(Counted, Trainer):
    """The Trainer."""


def model_of(case: Instructions) -> Any:
    """Return the model, dropout off."""
    set_seed(1)
    config = GPT2Config(
        vocab_size=case.vocabulary,
        n_positions=case.context,
        n_embd=case.width,
        n_layer=case.layers,
        n_head=case.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    if case.lora:
        return get_peft_model(model, LoraConfig(**lora_of(case)))
    return model


def lora_of(case: Instructions) -> dict[str, Any]:
    """Return the settings of peft: every linear map of the blocks."""
    maps = ["c_attn", "c_proj", "c_fc"]
    rank = case.lora
    return {
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": maps,
        "fan_in_fan_out": True,
    }


def settings(case: Instructions, name: str) -> dict[str, Any]:
    """Return arguments of any trainer: its defaults, saving off."""
    return {
        "output_dir": str(Path(case.folder) / name),
        "per_device_train_batch_size": case.batch,
        "max_steps": case.total_steps,
        "learning_rate": 1e-4,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }


def save_model(case: Instructions) -> None:
    """Save the model, before LoRA, as a folder that others start from."""
    model_of(dataclasses.replace(case, lora=0)).save_pretrained(Path(case.folder) / "gpt2")


def tokenizer_of(case: Instructions) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which the collators pad with."""
    path = str(Path(case.folder) / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=path, eos_token="w0", pad_token="w0")


def run_trainer(case: Instructions) -> None:
    """Train with the Trainer; a batch is padded to its longest row."""
    meter = Meter(case)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in read_rows(case)]
    trainer = CountedTrainer(
        model=model_of(case),
        args=TrainingArguments(**settings(case, "trainer")),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer_of(case)),
        callbacks=[Times(meter)],
    )
    _train(trainer, meter)


def run_trl(case: Instructions, packing: str | None) -> None:
    """Train with the SFTTrainer, packing by a strategy of its own or padding."""
    from trl import SFTConfig, SFTTrainer

    class CountedSFT(Counted, SFTTrainer):  # type: ignore[misc]
        """TRL's trainer."""

    meter = Meter(case)
    rows = [
        {name: row[name] for name in ("input_ids", "completion_mask")} for row in read_rows(case)
    ]
    arguments = SFTConfig(
        **settings(case, "trl"),
        max_length=case.context,
        completion_only_loss=True,
        packing=packing is not None,
        gradient_checkpointing=False,  # its default trades the time that is measured for memory
        **({} if packing is None else {"packing_strategy": packing}),
    )
    trainer = CountedSFT(
        model=model_of(case),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer_of(case),
        callbacks=[Times(meter)],
    )
    _train(trainer, meter)


def _train(trainer: Any, meter: Meter) -> None:
    trainer.meter = meter
    assert next(trainer.model.parameters()).dtype == torch.float32
    done = trainer.train()
    meter.report(done.training_loss)
