"""``transformers.Trainer`` on ``GPT2LMHeadModel``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from peers.case import Case, Clock, read_tokens


class Windows(Dataset):  # type: ignore[type-arg]
    """Consecutive windows of the tokens, as the Trainer's documentation suggests."""

    def __init__(self, case: Case) -> None:
        self._tokens, self._context = read_tokens(case), case.context

    def __len__(self) -> int:
        return len(self._tokens) // self._context - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self._context
        ids = torch.from_numpy(self._tokens[start : start + self._context].astype("int64"))
        return {"input_ids": ids, "labels": ids}


class Times(TrainerCallback):
    """Tells the clock about steps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the time of a step."""
        del args, control
        self._clock.after_step(state.global_step)


def gpt2(case: Case) -> GPT2LMHeadModel:
    """Return the case's model, without dropout."""
    return GPT2LMHeadModel(
        GPT2Config(
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
    )


def run(case: Case) -> None:
    """Train with the Trainer's defaults, dropout and saving off."""
    set_seed(1)
    arguments = TrainingArguments(
        output_dir=str(Path(case.folder) / "trainer"),
        per_device_train_batch_size=case.batch,
        max_steps=case.total_steps,
        learning_rate=1e-3,
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        logging_steps=case.log_every,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    clock = Clock(case)
    trainer = Trainer(
        model=gpt2(case),
        args=arguments,
        train_dataset=Windows(case),
        callbacks=[Times(clock)],
    )
    done = trainer.train()
    clock.report(done.training_loss)
