"""Checks of one engine that ranks run together; each returns what it found, for the tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from engine_ranks import (
    OnlyParts,
    Setup,
    clone_state,
    differing,
    global_batch,
    make_engine,
    train,
    whole_state,
)

STEPS = 5


def resumed(setup: Setup, directory: Path) -> dict[str, Any]:
    """Save in the middle, continue in another engine, and compare with continuing at once."""
    whole = make_engine(setup, directory)
    train(whole, range(2))
    middle = whole_state(whole)
    curve = train(whole, range(2, STEPS))
    other = make_engine(setup, directory)
    other.load_state(middle)
    loaded = differing(whole_state(other), middle)
    again = train(other, range(2, STEPS))
    last = whole_state(other)
    with other.gathered() as model:
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {
        "curve": curve,
        "again": again,
        "loaded": loaded,
        "end": differing(last, whole_state(whole)),
        "saved": set(last.model),
        "weights": weights,
    }


def reading(setup: Setup, directory: Path) -> dict[str, Any]:
    """Load a state of which only parts can be read."""
    engine = make_engine(setup, directory)
    train(engine, range(1))
    state = whole_state(engine)
    weights, moments = OnlyParts(state.model), OnlyParts(state.optimizer)
    other = make_engine(setup, directory)
    other.load_state(dataclasses.replace(state, model=weights, optimizer=moments))
    held = {name: (part.begin, engine.state()) for name, part in engine.state().slices.items()}
    parts = {
        name: (begin, ({**own.model, **own.optimizer})[name].numel())
        for name, (begin, own) in held.items()
    }
    return {"read": weights.read | moments.read, "held": parts}


def looking(setup: Setup, directory: Path) -> dict[str, Any]:
    """Look at whole weights in the middle of training, and evaluate."""
    plain, looked = make_engine(setup, directory), make_engine(setup, directory)
    train(plain, range(3))
    train(looked, range(2))
    rows = {name: tensor[:4] for name, tensor in global_batch(9).items()}
    before = [float(value) for value in looked.evaluate(rows)]
    with looked.gathered() as model:
        model.eval()
        with torch.no_grad():
            logits = model(rows["inputs"])
        whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.train()
    expected = whole_state(looked)
    dtype = whole["norm.weight"].dtype
    train(looked, range(2, 3))
    return {
        "evaluated": before,
        "logits": logits,
        # in the precision that is computed in
        "whole": all(torch.equal(whole[name], expected.model[name].to(dtype)) for name in whole)
        and whole.keys() == expected.model.keys(),
        "undisturbed": differing(whole_state(plain), whole_state(looked)),
    }


def discarding(setup: Setup, directory: Path) -> dict[str, Any]:
    """Discard after micro-batches that did and did not exchange gradients; then go wrong."""
    plain, other = make_engine(setup, directory), make_engine(setup, directory)
    rows = {name: tensor[:2] for name, tensor in global_batch(7).items()}
    for last in (False, True):
        other.accumulate(rows, targets=20, seed=1, last=last)
        other.discard()
    train(plain, range(2))
    train(other, range(2))
    differences = differing(whole_state(plain), whole_state(other))
    healthy = other.finite()
    broken = clone_state(whole_state(other))
    broken.model["norm.weight"].fill_(torch.nan)
    other.load_state(broken)
    train(other, range(2, 3))
    return {"discarded": differences, "healthy": healthy, "broken": not other.finite()}
