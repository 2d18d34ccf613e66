"""Windows of training text cut into shorter ones at the beginning: sequence length warm-up.

As Li et al., "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for Training
GPT Models" (2022), in stages as Press et al., "Shortformer" (2021). A step learns the same tokens
whatever the length is, so sample order, epochs and schedule are those of a run without it.
"""

from __future__ import annotations

from llmforge.interfaces import Batch
from llmforge.ramp import Ramp


def shorter_windows(batch: Batch, lengths: Ramp, step: int) -> Batch:
    """Return a batch of tensors [rows, context] as [more rows, length of the step].

    Args:
        batch: what a step, or a part of it, learns.
        lengths: of windows, in tokens.
        step: counted from 0.
    """
    length = lengths.at(step)
    if length == lengths.end:
        return batch
    return {name: tensor.reshape(-1, length) for name, tensor in batch.items()}
