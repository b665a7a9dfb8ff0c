"""Interpolation on the simplex: φ̄ = Σ_i softmax(α)_i φ_i (paper, equation 4). Pure functions of tensors.

Letters: k experts, p numbers, g groups of modules that share one α vector (see `group_of`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pituning.errors import MixtureError

Sharing = Literal["module", "block", "layer", "expert"]


def simplex(alpha: Float[Tensor, "k g"]) -> Float[Tensor, "k g"]:
    """Weights of each group: non-negative, summing to one over the experts."""
    return alpha.softmax(dim=0)


def interpolate(
    alpha: Float[Tensor, "k g"], experts: Float[Tensor, "k p"], sizes: Sequence[int]
) -> list[Float[Tensor, " size"]]:
    """Each group's numbers, averaged over the experts with the group's weights.

    Args:
        alpha: logits of the weights.
        experts: one row an expert; the groups lie side by side.
        sizes: numbers in each group, adding up to p.

    Example:
        >>> interpolate(torch.zeros(2, 1), torch.tensor([[0.0, 2.0], [4.0, 2.0]]), [2])
        [tensor([2., 2.])]
    """
    weights = simplex(alpha)
    return [weights[:, group] @ part for group, part in enumerate(experts.split(list(sizes), dim=1))]


def logits_of(weights: Sequence[float], groups: int) -> Float[Tensor, "k g"]:
    """α whose softmax gives `weights` in every group; a weight of 0 stays 0 (α = -∞)."""
    return torch.tensor(weights, dtype=torch.float32).log().unsqueeze(1).repeat(1, groups)


def precision_of(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """What experts are mixed in: float32, or float64 where one of them is."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def group_of(module: str, sharing: Sharing) -> str:
    """The group that an adapted module belongs to.

    Itself, its block (the module that holds it, such as an attention), its layer (up to the first number), or
    all modules together.
    """
    if sharing == "module":
        return module
    if sharing == "block":
        return module.rpartition(".")[0]
    if sharing == "expert":
        return ""
    if sharing != "layer":
        fix = f"Choose one of {', '.join(get_args(Sharing))}."
        raise MixtureError("what shares its weights must be known", repr(sharing), fix)
    layer = re.match(r"(.*?\.\d+)(\.|$)", module)
    return layer.group(1) if layer else module
