"""``forge drift``: whether data is like what a model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, error_console, run_root
from llmforge.errors import EXIT_DRIFTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmforge.drift.comparison import Drift
    from llmforge.drift.token_distribution import TokenShare
    from llmforge.interfaces import Tokenizer


def drift(
    checkpoint: options.Checkpoint,
    data: Annotated[
        str,
        options.argument(
            "DATA", "Files as the run reads its own (path, folder, glob, URL), or a recipe."
        ),
    ],
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="BITS",
            min=0,
            help="Divergence of token frequencies, beyond chance, that counts as drift.",
        ),
    ] = 0.05,
    loss_threshold: Annotated[
        float,
        typer.Option(
            "--loss-threshold",
            metavar="SHARE",
            min=0,
            help="Increase of the loss over validation that counts: 0.1 is 10 %.",
        ),
    ] = 0.1,
    sequences: Annotated[
        int,
        typer.Option(
            "--sequences",
            "-n",
            metavar="N",
            min=0,
            help="Measure the loss over N sequences or examples of each; 0: not at all.",
        ),
    ] = 256,
    assignments: options.Assignments = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Say how far DATA is from what a model was trained on.

    By the frequencies of its tokens and by the loss on it; the exit code is 4 when one of them is
    beyond its threshold.
    """
    from llmforge.drift.comparison import compare
    from llmforge.generation import locate
    from llmforge.generation.load import require_device
    from llmforge.recipe import parse_set

    require_device(device, dtype)
    found = locate(checkpoint, root=run_root(root), say=error_console().print)
    result, loaded = compare(
        found,
        data,
        threshold=threshold,
        loss_threshold=loss_threshold,
        sequences=sequences,
        assignments=[parse_set(text) for text in assignments or ()],
        device=device,
        dtype=dtype,
        notice=error_console().print,
    )
    if as_json:
        emit_json({"checkpoint": found.path.name, "data": data, **result.as_json()})
    else:
        _print(result, loaded.tokenizer, of=f"{loaded.run.id}@{found.step}")
    if result.drifted:
        raise typer.Exit(EXIT_DRIFTED)


def _print(found: Drift, tokenizer: Tokenizer, *, of: str) -> None:
    from llmforge.cli.render import Column, print_table

    out = console()
    columns = [Column("", fold=True), *(Column(name, right=True) for name in ("training", "new"))]
    sides = (found.training, found.new)
    rows = [
        ("tokens", *(f"{side.tokens:,}" for side in sides)),
        ("bytes a token", *(f"{side.bytes_per_token:.2f}" for side in sides)),
        ("tokens not in the training data", "", f"{found.divergence.unseen:.2%}"),
    ]
    if found.new.loss is not None:
        losses = [f"{side.loss:.4f}" for side in sides]
        rows.append(("loss (of training: on validation)", *losses))
    out.print(f"{of}: {found.training.description}")
    out.print(f"new: {found.new.description}", highlight=False)
    print_table(out, columns, rows, indent=2)
    for title, shares in (("more", found.divergence.more), ("less", found.divergence.less)):
        if shares:
            out.print(f"tokens that are {title} frequent")
            print_table(out, columns, _shares(shares, tokenizer), indent=2)
    measured = found.divergence
    echo(
        f"token frequencies: {measured.excess:.3f} bits of 1 beyond chance, "
        f"{_verdict('tokens' in found.drifted, f'{found.threshold:g}')}"
    )
    if found.loss_increase is not None:
        echo(
            f"loss: {found.loss_increase:+.1%}, "
            f"{_verdict('loss' in found.drifted, f'{found.loss_threshold:.0%}')}"
        )


def _shares(shares: Sequence[TokenShare], tokenizer: Tokenizer) -> list[tuple[str, str, str]]:
    return [
        (_spelled(share.token, tokenizer), f"{share.training:.3%}", f"{share.new:.3%}")
        for share in shares
    ]


def _spelled(token: int, tokenizer: Tokenizer) -> str:
    text = tokenizer.decode([token])
    return repr(text) if text else f"token {token}"


def _verdict(beyond: bool, threshold: str) -> str:
    return f"more than {threshold}: drifted" if beyond else f"within {threshold}"
