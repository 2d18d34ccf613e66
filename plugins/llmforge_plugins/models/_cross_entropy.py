"""Cross-entropy of a linear output layer, chunk by chunk, so that logits never exist in full.

The logits of a small model are by far its largest tensor: 2,048 positions over 50,000 tokens take
400 MB in fp32, and plain autograd holds several of that size. Here a chunk of positions goes
through matrix product, softmax and both gradients while it is in cache; what is kept for the
backward pass is as large as the inputs. The idea is that of Liger Kernel (Hsu et al. 2024) and
"Cut Your Losses in Large-Vocabulary Language Models" (Wijmans et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmforge.interfaces import IGNORE_INDEX
from llmforge_plugins.models._kernels import chosen_kernel
from llmforge_plugins.models._linear import input_gradient, output_product, weight_gradient

LOSS_CHUNK = "loss chunk"
LOSS_CHUNKS = ("512", "256", "1024", "2048")
"""What is measured on a CPU. Of 512 positions the logits of 8,192 tokens stay in a shared cache."""
_CHUNK_ELSEWHERE = 2048
_SOFTMAX_ROWS_ON_CPU = 256  # of these the fp32 copy stays in cache, too


def softcapped(logits: Tensor, bound: float) -> Tensor:
    """Return ``logits`` held below ``bound`` in size, smoothly; as they are for a bound of 0.

    ``bound · tanh(logits / bound)``, as Gemma 2 (2024).
    """
    return logits if not bound else bound * torch.tanh(logits / bound)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float = 0.0
) -> Tensor:
    """Return the summed cross-entropy in nats of ``hidden @ weight.T`` against ``targets``.

    Under autocast the logits are computed in its precision; softmax and sums always are in fp32.

    Args:
        hidden: [positions, width].
        weight: [vocabulary, width]; its gradient comes in its own precision.
        targets: int64 [positions]; ``IGNORE_INDEX`` where unscored.
        softcap: bound of :func:`softcapped` for the logits.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, softcap)
    return loss


def linear_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float = 0.0
) -> Tensor:
    """Return the log-probability in nats of each target, [positions], 0 where unscored.

    For losses that are no plain sum of them, whose gradients are not known before all are there. So
    logits are computed a second time in the backward pass, chunk by chunk as well. Arguments and
    precision are those of :func:`linear_cross_entropy`.
    """
    found: Tensor = _LinearLogProbs.apply(hidden, weight, targets, softcap)
    return found


def layer_log_probs(
    hidden: Tensor, layer: Callable[[Tensor], Tensor], targets: Tensor, *, softcap: float = 0.0
) -> Tensor:
    """Return what :func:`linear_log_probs` does, of an output layer without a plain matrix.

    Without gradients. ``layer`` maps [positions, width] to logits [positions, vocabulary].
    """
    found = [
        -functional.cross_entropy(
            softcapped(layer(hidden[rows]).float(), softcap),
            targets[rows],
            ignore_index=IGNORE_INDEX,
            reduction="none",
        )
        for rows in _chunks(hidden)
    ]
    return torch.cat(found) if found else hidden.new_zeros(0)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float
    ) -> Tensor:
        """Return the loss and keep the gradients of both inputs."""
        device, dtype = hidden.device.type, _product_dtype(hidden)
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        with torch.autocast(device, enabled=False):
            cast = weight.to(dtype)
            loss = hidden.new_zeros((), dtype=_wide(dtype))
            grad_hidden = torch.empty_like(hidden) if wants_hidden else None
            grad_weight = None
            for rows in _chunks(hidden):
                part, scored = hidden[rows].to(dtype), targets[rows] != IGNORE_INDEX
                logits = output_product(part, cast)
                loss -= _log_probs_and_gradient_(logits, targets[rows], scored, softcap).sum()
                column = scored[:, None].to(dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = input_gradient(logits, cast) * column
                if wants_weight:
                    of_chunk = weight_gradient(logits, part * column, cast)
                    grad_weight = _sum(grad_weight, of_chunk, _wide(weight.dtype))
        ctx.gradients = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Scale the kept gradients, in place: they can be used once only."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss are used up; compute the loss again")
        hidden, weight = ctx.gradients
        ctx.gradients = None
        return (
            None if hidden is None else hidden.mul_(grad),
            None if weight is None else weight.mul_(grad),
            None,
            None,
        )


class _LinearLogProbs(torch.autograd.Function):
    """Computes each target's log-probability, and logits again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float
    ) -> Tensor:
        """Return the log-probabilities and keep the inputs."""
        ctx.save_for_backward(hidden, weight, targets)
        ctx.dtype, ctx.softcap = _product_dtype(hidden), softcap
        found = hidden.new_zeros(hidden.shape[0], dtype=_wide(ctx.dtype))
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(ctx.dtype)
            for rows in _chunks(hidden):
                logits = output_product(hidden[rows].to(ctx.dtype), cast)
                scored = targets[rows] != IGNORE_INDEX
                found[rows] = _log_probs_and_gradient_(logits, targets[rows], scored, softcap)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of both inputs, weighted by ``grad`` [positions]."""
        hidden, weight, targets = ctx.saved_tensors
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = None
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(ctx.dtype)
            for rows in _chunks(hidden):
                part, scored = hidden[rows].to(ctx.dtype), targets[rows] != IGNORE_INDEX
                logits = output_product(part, cast)
                _log_probs_and_gradient_(logits, targets[rows], scored, ctx.softcap)
                column = -(grad[rows] * scored)[:, None]  # in fp32: it may be small
                if grad_hidden is not None:
                    grad_hidden[rows] = input_gradient(logits, cast) * column
                if wants_weight:
                    of_chunk = weight_gradient(logits, (part * column).to(ctx.dtype), cast)
                    grad_weight = _sum(grad_weight, of_chunk, _wide(weight.dtype))
        of_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, of_weight, None, None


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else hidden.dtype


def _chunks(hidden: Tensor) -> list[slice]:
    """Return the positions whose logits are held at once."""
    size = _CHUNK_ELSEWHERE
    if hidden.device.type == "cpu":
        size = int(chosen_kernel(LOSS_CHUNK) or LOSS_CHUNKS[0])
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]


def _log_probs_and_gradient_(
    logits: Tensor, targets: Tensor, scored: Tensor, softcap: float
) -> Tensor:
    """Return each target's log-probability, 0 where unscored.

    In place of ``logits`` comes the gradient of its negative, also of unscored rows.

    A target less likely than fp32 can express counts as the least likely it can: 87 nats.
    """
    labels = targets.where(scored, 0)[:, None]
    dtype = _wide(logits.dtype)
    likely = torch.empty(labels.shape, dtype=dtype, device=logits.device)
    rows = _SOFTMAX_ROWS_ON_CPU if logits.device.type == "cpu" else logits.shape[0]
    pieces = (tensor.split(rows) for tensor in (logits, labels, likely))
    for narrow, label, found in zip(*pieces, strict=True):
        wide = narrow.to(dtype)
        slope = None
        if softcap:
            share = (wide / softcap).tanh_()
            wide = share * softcap
            slope = share.square_().neg_().add_(1.0)
        torch.softmax(wide, 1, out=wide)
        found.copy_(wide.gather(1, label))  # with out= it cannot be compiled for any length
        wide.scatter_(1, label, found - 1.0)
        if slope is not None:
            wide.mul_(slope)
        if wide is not narrow:
            narrow.copy_(wide)
    log_probs = likely[:, 0].clamp_min_(torch.finfo(dtype).tiny).log_()
    return log_probs.where(scored, 0.0)


def _sum(total: Tensor | None, part: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``total + part`` in ``dtype``; chunks are summed in fp32 even for a bf16 weight."""
    return part.to(dtype) if total is None else total.add_(part)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
