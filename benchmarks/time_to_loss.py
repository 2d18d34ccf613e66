"""Tokens and seconds to the loss that a nanoGPT-style loop ends with: the same text for everyone.

    python benchmarks/time_to_loss.py --train train.txt --validation valid.txt
    python benchmarks/time_to_loss.py … --ablation      # the recipe without each of its parts

Contenders, each in a process of its own for every seed, taking turns:

* ``plain``: a hand-written GPT-2 loop as nanoGPT's, in eager fp32 PyTorch, 600 steps of 2,048
  tokens (``peers/loss_curve.py``);
* ``trainer``: ``transformers.Trainer`` on ``GPT2LMHeadModel`` with the same settings;
* ``forge``: ``recipes/wikitext_speedrun.toml`` as ``forge train`` runs it, with logging and
  checkpoints; ``forge further`` is its profile of as many tokens as ``plain``.

All have 4 layers x 256, a context of 128 and the same BPE tokenizer of 4,096 tokens, trained on the
training text. The clock runs while steps are taken and checkpoints are written, not while the
validation loss is computed, of the whole text for everyone. The loss to reach is that of ``plain``
with the same seed after its last step; a ratio is the median over the seeds, with the smallest and
largest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers.loss_curve import Race
from peers.worker import in_own_process

BASE, TRAINER, FORGE, FURTHER = "plain", "trainer", "forge", "forge further"
RECIPE = "wikitext_speedrun"
WITHOUT: dict[str, tuple[str, ...]] = {
    "QK-norm": ("model.transformer.qk_norm=false",),
    "ReLU2 (GELU)": ('model.transformer.activation="gelu"',),
    "zeros in output projections": ("model.transformer.zero_init=false",),
    "skips": ("model.transformer.skips=false",),
    "embedding residual": ("model.transformer.embedding_residual=false",),
    "attention gate": ("model.transformer.attention_gate=false",),
    "bigram embeddings": ("model.transformer.bigram_embeddings=0",),
    "Muon (AdamW, 3e-3)": ('optimizer.name="adamw"', "optimizer.adamw.lr=3e-3"),
    "small batches (16 rows)": ("train.batch_size=16", "train.max_steps=SAME_TOKENS"),
}
WITH: dict[str, tuple[str, ...]] = {
    "value embeddings": ("model.transformer.value_embeddings=2",),
    "token shift": ("model.transformer.token_shift=true",),
    "logit soft-cap 15": ("model.transformer.logit_softcap=15.0",),
    "multi-token 0.3": ("model.transformer.multi_token=0.3",),
    "NorMuon": ("optimizer.muon.normalised_rows=true",),
    "momentum warm-up 50": ("optimizer.muon.momentum_warmup_steps=50",),
    "weight decay 0.1": ("optimizer.muon.weight_decay=0.1",),
    "cautious decay 0.1": (
        "optimizer.muon.weight_decay=0.1",
        "optimizer.muon.cautious_decay=true",
    ),
    "context warm-up 90": ("train.context_warmup_steps=90",),
    "batch warm-up 60": ("train.batch_warmup_steps=60", "train.batch_warmup_from=2"),
    "cosine": ('schedule.name="cosine"', "schedule.cosine.warmup=0.05"),
}


def work(contender: str, race: Race) -> None:
    """Be one contender."""
    import torch

    if race.threads:
        torch.set_num_threads(race.threads)
    if contender == BASE:
        from peers import loss_curve

        loss_curve.run_plain(race)
    elif contender == TRAINER:
        from peers import loss_curve

        loss_curve.run_trainer(race)
    else:
        from peers import loss_curve_forge

        if contender == "tokens":
            loss_curve_forge.write_tokens(race)
        else:
            loss_curve_forge.run(race)


def run(contender: str, race: Race) -> str:
    """Run a contender in a process of its own and return the last line it printed."""
    return in_own_process(__file__, contender, race.to_json(), FORGE_CACHE=f"{race.folder}/cache")


def measure(contender: str, race: Race) -> list[dict[str, float]]:
    """Run a contender and return its curve."""
    curve: list[dict[str, float]] = json.loads(run(contender, race))
    return curve


def race_of(arguments: argparse.Namespace, folder: str, seed: int, *changes: str) -> Race:
    """Return what a contender has to do."""
    return Race(
        train=str(arguments.train.resolve()),
        validation=str(arguments.validation.resolve()),
        folder=folder,
        seed=seed,
        steps=arguments.steps,
        every=arguments.every,
        recipe=RECIPE,
        changes=(*changes, *arguments.set),
        threads=arguments.threads,
    )


def compare(arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Print and return a row for each contender."""
    curves: dict[str, list[list[dict[str, float]]]] = {name: [] for name in arguments.contenders}
    for seed in arguments.seeds:
        for name in arguments.contenders:
            race = race_of(arguments, folder, seed)
            if name == FURTHER:
                race = dataclasses.replace(race, profile="further")
            curve = measure(name, race)
            curves[name].append(curve)
            last = curve[-1]
            print(
                f"  seed {seed}: {name} {last['bits_per_byte']:.4f} bits per byte after "
                f"{last['tokens']:,.0f} tokens and {last['seconds']:.0f} s",
                file=sys.stderr,
            )
    rows = [_row(name, curves) for name in arguments.contenders]
    for row in rows:
        print(_line(row), flush=True)
    return rows


def _row(name: str, curves: dict[str, list[list[dict[str, float]]]]) -> dict[str, Any]:
    tokens, seconds = [], []
    for curve, base in zip(curves[name], curves[BASE], strict=True):
        goal = base[-1]
        reached = next((p for p in curve if p["bits_per_byte"] <= goal["bits_per_byte"]), None)
        if reached is not None:
            tokens.append(reached["tokens"] / goal["tokens"])
            seconds.append(reached["seconds"] / goal["seconds"])
    return {
        "contender": name,
        "tokens": tokens,
        "seconds": seconds,
        "last": [curve[-1]["bits_per_byte"] for curve in curves[name]],
        "last_tokens": curves[name][0][-1]["tokens"],
        "last_seconds": [curve[-1]["seconds"] for curve in curves[name]],
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['contender']:28} {_spread(row['tokens']):24} {_spread(row['seconds']):26} "
        f"{_spread(row['last'], 3):24} {row['last_tokens']:11,.0f} "
        f"{statistics.median(row['last_seconds']):7.0f}"
    )


def _spread(values: list[float], digits: int = 3) -> str:
    if not values:
        return "not reached"
    low, high, middle = min(values), max(values), statistics.median(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ablation(arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Print and return the last loss of the recipe, and of it with one thing changed."""
    cases: dict[str, tuple[str, ...]] = {"the recipe": ()}
    cases |= {f"without {name}": changes for name, changes in WITHOUT.items()}
    cases |= {f"with {name}": changes for name, changes in WITH.items()}
    wanted = {
        name: changes
        for name, changes in cases.items()
        if not arguments.only or any(part in name for part in arguments.only)
    }
    losses: dict[str, list[float]] = {name: [] for name in wanted}
    seconds: dict[str, list[float]] = {name: [] for name in wanted}
    for seed in arguments.seeds:
        for name, changes in wanted.items():
            given = tuple(c.replace("SAME_TOKENS", str(arguments.halved)) for c in changes)
            curve = measure(FORGE, race_of(arguments, folder, seed, *given))
            losses[name].append(curve[-1]["bits_per_byte"])
            seconds[name].append(curve[-1]["seconds"])
            print(f"  seed {seed}: {name} {losses[name][-1]:.4f}", file=sys.stderr)
    rows = []
    for name in wanted:
        rows.append({"case": name, "losses": losses[name], "seconds": seconds[name]})
        print(
            f"{name:36} {_spread(losses[name], 4):28} {statistics.median(seconds[name]):6.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    """Parse the command line and run everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help="training text")
    parser.add_argument("--validation", type=Path, help="validation text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=600, help="of those without a recipe")
    parser.add_argument("--every", type=int, default=25, help="steps between two evaluations")
    parser.add_argument("--contenders", nargs="+", default=[BASE, TRAINER, FORGE, FURTHER])
    parser.add_argument("--ablation", action="store_true", help="change the recipe's parts")
    parser.add_argument("--only", nargs="+", default=[], help="cases with these words")
    parser.add_argument("--halved", type=int, default=100, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.work:
        contender, text = arguments.work
        fields = json.loads(text)
        work(contender, Race(**{**fields, "changes": tuple(fields["changes"])}))
        return
    if arguments.train is None or arguments.validation is None:
        parser.error("--train and --validation are needed: text files")
    with tempfile.TemporaryDirectory() as folder:
        run("tokens", race_of(arguments, folder, arguments.seeds[0]))
        if arguments.ablation:
            rows = ablation(arguments, folder)
        else:
            print(
                f"{'contender':28} {'tokens to the loss':24} {'seconds to the loss':26} "
                f"{'last bits per byte':24} {'of tokens':>11} {'seconds':>7}"
            )
            rows = compare(arguments, folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
