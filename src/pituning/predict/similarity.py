"""How alike two tasks are, from their Fisher embeddings (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pituning.errors import ConfigError

Setting = Literal["default", "paper"]

# Added to every denominator. The default applies it after each embedding is divided by its mean, so that it
# is relative; the official code applies it to raw values, where it decides the result when they are small.
EPSILON = 1e-6

# The default leaves out a component that is nowhere above this share of its embedding's mean: the rounding of
# a gradient that is truly zero, such as that of a bias of the keys, to which softmax is blind (BitFit).
ROUNDING = 1e-10

# So many numbers, three times over, fit into the cache that the cores share; fewer cost more calls.
CACHED = 1 << 18


def similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, setting: Setting = "default") -> float:
    """Mean over components c of cos(a_c ⊘ (a_c + b_c), b_c ⊘ (a_c + b_c)); in [0, 1].

    Symmetric, 1 with itself and, in the default setting, unchanged when an embedding is multiplied by a
    positive constant. A component that is zero everywhere in either embedding (in the default setting, zero
    up to rounding) says nothing and is left out.

    Args:
        a: component name -> non-negative tensor, one number a parameter.
        b: the same components.
        setting: "paper" uses the official absolute epsilon and does not rescale.

    Raises:
        ConfigError: if the components differ, all are zero, or one holds a number that is negative or not
            finite.

    Example:
        >>> a = {"w": torch.tensor([1.0, 4.0])}
        >>> round(similarity(a, {"w": torch.tensor([4.0, 1.0])}), 4), similarity(a, a)
        (0.4706, 1.0)
    """
    return float(similarities(a, [b], setting=setting)[0])


def similarities(
    a: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]], *, setting: Setting = "default"
) -> Float[Tensor, " others"]:
    """`similarity` of one embedding with each of `others`, float64 [others]."""
    _check_values(a)
    for other in others:
        _check_components(a, other)
        _check_values(other)
    if not others:
        return torch.zeros(0, dtype=torch.float64)
    floor = ROUNDING if setting == "default" else 0.0
    scale = _means([a, *others]) if setting == "default" else torch.ones(len(others) + 1, dtype=torch.float64)
    total = torch.zeros(len(others), dtype=torch.float64)
    used = torch.zeros(len(others), dtype=torch.float64)
    for name in sorted(a):
        mine = a[name].flatten().double() / scale[0]
        theirs = torch.stack([other[name].flatten().double() for other in others]) / scale[1:, None]
        denominator = mine + theirs + EPSILON
        x, y = mine / denominator, theirs / denominator
        norms = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()  # exact where x = y
        known = (norms > 0) & (mine.max() > floor) & (theirs.amax(dim=1) > floor)
        total += torch.where(known, (x * y).sum(dim=1) / norms.where(known, 1.0), 0.0)
        used += known
    _check_known(used)
    return (total / used).clamp(max=1.0)


def all_similarities(
    embeddings: Sequence[Mapping[str, Tensor]], *, setting: Setting = "default"
) -> Float[Tensor, "n n"]:
    """`similarity` of all pairs, float64; in the default setting from float32 values, to about 1e-6.

    One row of a component is compared with as many others as stay in a processor's cache.
    """
    size = len(embeddings)
    for embedding in embeddings:
        _check_components(embeddings[0], embedding)
        _check_values(embedding)
    total, used = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, size)
    scale = _means(embeddings) if setting == "default" else torch.ones(size, dtype=torch.float64)
    floor, dtype = (ROUNDING, torch.float32) if setting == "default" else (0.0, torch.float64)
    for name in sorted(embeddings[0]) if embeddings else ():
        values = torch.stack(
            [(e[name].flatten().double() / s).to(dtype) for e, s in zip(embeddings, scale, strict=True)]
        )
        there = values.amax(dim=1) > floor
        block = max(1, CACHED // values.shape[1])
        for row in range(size - 1):
            one, square = values[row], values[row].square()
            for start in range(row + 1, size, block):
                others = values[start : start + block]
                ratio = (others + (one + EPSILON)).reciprocal_()
                own = (ratio * ratio) @ square
                theirs = others * ratio
                norms = own.double().sqrt() * torch.linalg.vector_norm(theirs, dim=1).double()
                known = (norms > 0) & there[row] & there[start : start + block]
                both = (ratio.mul_(theirs) @ one).double()
                total[row, start : start + block] += torch.where(known, both / norms.where(known, 1.0), 0.0)
                used[row, start : start + block] += known
    matrix = (total / used.clamp(min=1.0)).clamp(max=1.0)
    _check_known(used + used.T + torch.eye(size))
    return matrix + matrix.T + torch.eye(size, dtype=torch.float64)


def flat_similarities(
    a: Shaped[np.ndarray, " numbers"],
    others: Sequence[Shaped[np.ndarray, " numbers"]],
    sizes: Sequence[int],
    *,
    setting: Setting = "default",
) -> Float[np.ndarray, " others"]:
    """`similarities` of embeddings whose components, of these sizes, lie one after another, unchecked."""
    mine, theirs = a.astype(np.float64)[None], np.array(others, np.float64).reshape(len(others), a.size)
    floor = 0.0
    if setting == "default":
        floor = ROUNDING
        for values in (mine, theirs):
            means = values.mean(axis=1, keepdims=True)
            values /= np.where(means > 0, means, 1.0)
    total, used, start = np.zeros(len(others)), np.zeros(len(others)), 0
    for size in sizes:
        one, other = mine[:, start : start + size], theirs[:, start : start + size]
        start += size
        ratio = 1 / (one + other + EPSILON)
        x, y = one * ratio, other * ratio
        norms = np.sqrt(np.einsum("ns,ns->n", x, x) * np.einsum("ns,ns->n", y, y))
        known = (norms > 0) & (one.max() > floor) & (other.max(axis=1) > floor)
        total += np.where(known, np.einsum("ns,ns->n", x, y) / np.where(known, norms, 1.0), 0.0)
        used += known
    found: Float[np.ndarray, " others"] = total / used.clip(min=1.0)
    return found


def _means(embeddings: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, " embeddings"]:
    """Mean over all numbers of each embedding (1 where it is all zero)."""
    means = [
        sum(float(t.double().sum()) for t in e.values()) / sum(t.numel() for t in e.values())
        for e in embeddings
    ]
    return torch.tensor([mean or 1.0 for mean in means], dtype=torch.float64)


def _check_values(embedding: Mapping[str, Tensor]) -> None:
    """Raise where a NaN would pass for a component that says nothing."""
    broken = [n for n, t in embedding.items() if not t.numel() or not bool(((t >= 0) & t.isfinite()).all())]
    if broken:
        raise ConfigError(
            "Fisher information is finite and not negative",
            f"not so in {', '.join(broken[:3])}",
            "Compute the embedding again.",
        )


def _check_known(used: Tensor) -> None:
    """Raise where no component says anything."""
    if bool((used == 0).any()):
        raise ConfigError(
            "two embeddings must share a component that is not zero",
            "every component is zero in one of them",
            "Embed a trained expert: the Fisher information of an untrained LoRA's A is zero.",
        )


def _check_components(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    shapes_a = {name: tuple(tensor.shape) for name, tensor in a.items()}
    shapes_b = {name: tuple(tensor.shape) for name, tensor in b.items()}
    if shapes_a != shapes_b:
        wrong = sorted(
            name for name in shapes_a.keys() | shapes_b.keys() if shapes_a.get(name) != shapes_b.get(name)
        )
        raise ConfigError(
            "embeddings are compared component by component, so both must have the same",
            f"they differ in {', '.join(wrong[:3])}" + (" …" if len(wrong) > 3 else ""),
            "Compare experts of one method and configuration on one backbone.",
        )
