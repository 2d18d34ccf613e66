"""Validation loss by tokens and seconds of training, and the loops of others that report it."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from peers.case import Case

LR, WARMUP_STEPS, LEAST_LR = 1e-3, 60, 1e-4


@dataclass(frozen=True, kw_only=True)
class Race:
    """What every contender is given.

    Attributes:
        train: training text.
        validation: validation text.
        folder: holds ``train.npy`` and ``validation.npy``, the tokens of both.
        seed: of weights and order.
        steps: of those that have no recipe of their own.
        every: steps between two looks at the validation loss.
        recipe: of llmforge.
        profile: of the recipe, if any.
        changes: settings of the recipe to replace.
        threads: of PyTorch; 0 leaves it alone.
    """

    train: str
    validation: str
    folder: str
    seed: int
    steps: int
    every: int
    recipe: str = ""
    profile: str | None = None
    changes: tuple[str, ...] = ()
    threads: int = 0
    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 128
    batch: int = 16
    vocabulary: int = 4096

    def to_json(self) -> str:
        """Return the race as text for a command line."""
        return json.dumps(asdict(self))

    def case(self) -> Case:
        """Return it as the hand-written loop knows it."""
        from peers.case import Case

        return Case(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            context=self.context,
            batch=self.batch,
            vocabulary=self.vocabulary,
            warmup=0,
            steps=self.steps,
            folder=self.folder,
        )


class Curve:
    """Collects the losses; its clock stands still while they are computed."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self._spent = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Let it stand still."""
        if self._since is not None:
            self._spent += time.perf_counter() - self._since
        self._since = None

    def restart(self) -> None:
        """Begin at zero: what was before was no training."""
        self._spent = 0.0
        self.start()

    def note(self, tokens: int, bits_per_byte: float) -> None:
        """Keep a loss."""
        point = {"tokens": tokens, "seconds": self._spent, "bits_per_byte": bits_per_byte}
        self.points.append(point)

    def report(self) -> None:
        """Print the curve as one line of JSON, the last of the process."""
        sys.stdout.flush()
        print(json.dumps(self.points), flush=True)


class Validation:
    """Computes the bits per byte of the validation text in windows, one after the other."""

    def __init__(self, race: Race) -> None:
        import torch

        ids = np.load(Path(race.folder) / "validation.npy").astype(np.int64)
        size = len(Path(race.validation).read_bytes())
        count = (len(ids) - 1) // race.context
        self._inputs = torch.from_numpy(ids[: count * race.context]).view(count, -1)
        self._targets = torch.from_numpy(ids[1 : count * race.context + 1]).view(count, -1)
        self._bytes = size * (count * race.context) / (len(ids) - 1)

    def bits_per_byte(self, model: torch.nn.Module, loss: Any) -> float:
        """Return it for ``loss(inputs, targets)``, the mean in nats of whole batches."""
        import torch

        model.eval()
        total = 0.0
        with torch.no_grad():
            pairs = zip(self._inputs.split(64), self._targets.split(64), strict=True)
            for inputs, targets in pairs:
                total += float(loss(inputs, targets)) * targets.numel()
        model.train()
        return total / math.log(2) / self._bytes


def factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: warm-up, then a cosine down to a tenth."""
    if step <= WARMUP_STEPS:
        return step / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    least = LEAST_LR / LR
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


def run_plain(race: Race) -> None:
    """Train as nanoGPT does: random windows, AdamW, clipping, warm-up and cosine, fp32 on a CPU."""
    import torch
    from torch import nn

    from peers.plain import Gpt

    torch.manual_seed(race.seed)
    tokens = np.load(Path(race.folder) / "train.npy", mmap_mode="r")
    model, validation, curve = Gpt(race.case()), Validation(race), Curve()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=LR,
        betas=(0.9, 0.95),
    )
    curve.start()
    for step in range(1, race.steps + 1):
        starts = torch.randint(len(tokens) - race.context - 1, (race.batch,)).tolist()
        rows = [
            torch.from_numpy(tokens[at : at + race.context + 1].astype("int64")) for at in starts
        ]
        batch = torch.stack(rows)
        for group in optimizer.param_groups:
            group["lr"] = LR * factor(step, race.steps)
        loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % race.every == 0 or step == race.steps:
            curve.stop()
            found = validation.bits_per_byte(model, model)
            curve.note(step * race.batch * race.context, found)
            curve.start()
    curve.report()


def run_trainer(race: Race) -> None:
    """Train ``GPT2LMHeadModel`` with ``transformers.Trainer``."""
    import torch
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    from peers.hugging_face import gpt2

    set_seed(race.seed)
    tokens = np.load(Path(race.folder) / "train.npy").astype("int64")
    validation, curve = Validation(race), Curve()
    model = gpt2(race.case())

    class Windows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(tokens) // race.context

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(tokens[index * race.context : (index + 1) * race.context])
            return {"input_ids": ids, "labels": ids}

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=inputs).logits
        found: torch.Tensor = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten()
        )
        return found

    class Look(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            curve.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            step = state.global_step
            if step % race.every == 0 or step == race.steps:
                curve.stop()
                found = validation.bits_per_byte(model, loss)
                curve.note(step * race.batch * race.context, found)
                curve.start()

    arguments = TrainingArguments(
        output_dir=str(Path(race.folder) / "trainer"),
        per_device_train_batch_size=race.batch,
        max_steps=race.steps,
        learning_rate=LR,
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_STEPS,
        logging_steps=race.every,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=race.seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Look()])
    trainer.train()
    curve.report()
