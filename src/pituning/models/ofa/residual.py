"""What the branches of a transformer layer share: dropout, drop path and where the LayerNorm stands."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave a whole branch out for some samples, in training only (stochastic depth, Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[b, ...] to the same shape; what survives is divided by the probability of surviving."""
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


def rising_rates(last: float, count: int) -> list[float]:
    """Drop-path rates of `count` blocks in a row, rising linearly from 0 to `last`."""
    return [last * index / max(1, count - 1) for index in range(count)]


class Residual(nn.Module):
    """x + drop_path(dropout(branch(norm(x)))), or norm(x + ...) where the norm comes last."""

    def __init__(self, *, dropout: float, drop_path: float, normalize_before: bool) -> None:
        super().__init__()
        self.dropout, self.normalize_before = dropout, normalize_before
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor], scale: Tensor | None = None
    ) -> Tensor:
        """[b, t, d] to the same shape; `scale` multiplies the residual."""
        out = branch(norm(x) if self.normalize_before else x)
        out = self.drop_path(nn.functional.dropout(out, self.dropout, self.training))
        out = (x if scale is None else scale * x) + out
        found: Tensor = out if self.normalize_before else norm(out)
        return found
