"""OFA's training loss: cross-entropy with label smoothing, over all tokens or over those allowed."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

UNLESS_ALONE = 1e-6
"""Keeps the official share finite where a single token is allowed."""


def smoothed_losses(
    logits: Float[Tensor, "b t vocabulary"],
    targets: Int[Tensor, "b t"],
    epsilon: float,
    *,
    allowed: Bool[Tensor, "b t vocabulary"] | None = None,
) -> Float[Tensor, "b t"]:
    """Loss of each target token, in nats.

    With n tokens and share e = ε / (n - 1): (1 - ε - e)·nll + e·Σ -log p, the sum over the n tokens. As in
    π-Tuning's copy of the code, the softmax runs over the whole vocabulary even where some are not allowed.

    Args:
        logits: of the next tokens.
        targets: the tokens.
        epsilon: what is taken from the target's probability.
        allowed: the tokens among which it is spread; the target must be one of them. None: all.
    """
    surprise = -logits.float().log_softmax(dim=-1)
    nll = surprise.gather(2, targets[..., None]).squeeze(2)
    if allowed is None:
        share, spread = epsilon / (logits.shape[-1] - 1), surprise.sum(dim=2)
        return (1 - epsilon) * nll + share * (spread - nll)
    count = allowed.sum(dim=2)
    spread = surprise.masked_fill(~allowed, 0.0).sum(dim=2)
    # A lone token has nothing to spread over: its bracket is 0, which the official sum reaches by cancelling.
    return (1 - epsilon) * nll + epsilon / (count - 1 + UNLESS_ALONE) * (spread - nll) * (count > 1)
