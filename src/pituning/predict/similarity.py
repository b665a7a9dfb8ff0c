"""How alike two tasks are, from their Fisher embeddings (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pituning.errors import ConfigError

Setting = Literal["default", "paper"]

# Added to every denominator, as the official code does: on its raw values, where it decides the result when
# they are small. The default has it, as a share of an embedding's mean, in every logarithm too.
EPSILON = 1e-6

# The default leaves out a component that is nowhere above this share of its embedding's mean: the rounding of
# a gradient that is truly zero, such as that of a bias of the keys, to which softmax is blind (BitFit).
ROUNDING = 1e-10

# A component whose logarithms vary by less than this is flat; and a standardised one is at most so large.
LEAST_DEVIATION, MOST_DEVIATIONS = 1e-3, 30.0

# So many numbers, three times over, fit into the cache that the cores share; fewer cost more calls.
CACHED = 1 << 18


def similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, setting: Setting = "default") -> float:
    """Mean over components c of cos(a_c ⊘ (a_c + b_c), b_c ⊘ (a_c + b_c)); in [0, 1].

    In the default setting a_c is not the Fisher information f_c but exp((log f_c - mean) / deviation) of the
    component's logarithms. The values of some tasks vary less than those of others, and by them as they are
    such a task is the most alike to all: on ofa-mini, the nearest of 14 of 17 tasks was captioning. A
    component of very few numbers tells little: one of two numbers, only which is the larger.

    Symmetric, 1 with itself and, in the default setting, unchanged when an embedding is multiplied by a
    positive constant. A component that is zero everywhere in either embedding (in the default setting, zero
    up to rounding) says nothing and is left out.

    Args:
        a: component name -> non-negative tensor, one number a parameter.
        b: the same components.
        setting: "paper" uses the official absolute epsilon, and the values as they are.

    Raises:
        ConfigError: if the components differ, all are zero, or one holds a number that is negative or not
            finite.

    Example:
        >>> a = {"w": torch.tensor([1.0, 4.0])}
        >>> round(similarity(a, {"w": torch.tensor([4.0, 1.0])}), 4), similarity(a, a)
        (0.2658, 1.0)
    """
    return float(similarities(a, [b], setting=setting)[0])


def similarities(
    a: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]], *, setting: Setting = "default"
) -> Float[Tensor, " others"]:
    """`similarity` of one embedding with each of `others`, float64 [others], on the CPU."""
    ConfigError.check_choice(Setting, setting=setting)
    ConfigError.check_kinds(*((Mapping, embedding) for embedding in (a, *others)))
    _check_values(a)
    for other in others:
        _check_components(a, other)
        _check_values(other)
    if not others:
        return torch.zeros(0, dtype=torch.float64)
    means = _means([a, *others])
    total = torch.zeros(len(others), dtype=torch.float64)
    used = torch.zeros(len(others), dtype=torch.float64)
    for name in sorted(a):
        values = torch.stack([e[name].flatten().cpu().double() for e in (a, *others)])
        found, known = _cosines(_compared(values, means, setting))
        total += found
        used += known
    _check_known(used)
    return (total / used).clamp(max=1.0)


def _compared(
    values: Float[Tensor, "n size"], means: Float[Tensor, " n"], setting: Setting
) -> Float[Tensor, "n size"]:
    """One component of several embeddings as it is compared; zeros where it says nothing."""
    if setting == "paper":
        return values
    scaled = values / means[:, None].to(values.dtype)
    logs = (scaled + EPSILON).log_()
    deviation, mean = torch.std_mean(logs, dim=1, correction=0, keepdim=True)
    logs = logs.sub_(mean).div_(deviation.clamp(min=LEAST_DEVIATION))
    there = scaled.amax(dim=1, keepdim=True) > ROUNDING
    return logs.clamp_(-MOST_DEVIATIONS, MOST_DEVIATIONS).exp_().mul_(there)


def _cosines(values: Float[Tensor, "n size"]) -> tuple[Float[Tensor, " others"], Bool[Tensor, " others"]]:
    """Of the first with each of the others, float64, 0 where one of both says nothing; and where not."""
    mine, theirs = values[0], values[1:]
    ratio = (mine + theirs).add_(EPSILON).reciprocal_()
    x, y = mine * ratio, theirs * ratio
    squares = [part.square().sum(dim=1, dtype=torch.float64) for part in (x, y)]
    norms = (squares[0] * squares[1]).sqrt()  # exact where x = y
    known = norms > 0
    return torch.where(known, (x * y).sum(dim=1, dtype=torch.float64) / norms.where(known, 1.0), 0.0), known


def all_similarities(
    embeddings: Sequence[Mapping[str, Tensor]], *, setting: Setting = "default", strict: bool = True
) -> Float[Tensor, "n n"]:
    """`similarity` of all pairs, float64, on the CPU; in the default setting of float32, to about 1e-6.

    One row of a component is compared with as many others as stay in a processor's cache.

    Args:
        embeddings: of the same components.
        setting: see `similarity`.
        strict: raise where two share no component that is not zero; else their similarity is 0.
    """
    size = len(embeddings)
    for embedding in embeddings:
        _check_components(embeddings[0], embedding)
        _check_values(embedding)
    total, used = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, size)
    means = _means(embeddings)
    dtype = torch.float32 if setting == "default" else torch.float64
    for name in sorted(embeddings[0]) if embeddings else ():
        values = torch.cat(
            [
                _compared(e[name].reshape(1, -1).cpu().double(), m, setting).to(dtype)
                for e, m in zip(embeddings, means.split(1), strict=True)
            ]
        )
        block = max(1, CACHED // values.shape[1])
        for row in range(size - 1):
            one, square = values[row], values[row].square()
            for start in range(row + 1, size, block):
                others = values[start : start + block]
                ratio = (others + (one + EPSILON)).reciprocal_()
                own = (ratio * ratio) @ square
                theirs = others * ratio
                norms = own.double().sqrt() * torch.linalg.vector_norm(theirs, dim=1).double()
                known = norms > 0
                both = (ratio.mul_(theirs) @ one).double()
                total[row, start : start + block] += torch.where(known, both / norms.where(known, 1.0), 0.0)
                used[row, start : start + block] += known
    matrix = (total / used.clamp(min=1.0)).clamp(max=1.0)
    if strict:
        _check_known(used + used.T + torch.eye(size))
    return matrix + matrix.T + torch.eye(size, dtype=torch.float64)


def flat_similarities(
    a: Shaped[np.ndarray, " numbers"],
    others: Sequence[Shaped[np.ndarray, " numbers"]],
    sizes: Sequence[int],
    *,
    setting: Setting = "default",
) -> Float[np.ndarray, " others"]:
    """`similarities` of embeddings whose components, of these sizes, lie one after another, unchecked.

    In the default setting from float32 values, to about 1e-6.
    """
    values = torch.from_numpy(np.array([a, *others]))
    values = values if setting == "default" else values.double()
    means = values.mean(dim=1, dtype=torch.float64)
    means = means.where(means > 0, 1.0)
    total, used = (torch.zeros(len(others), dtype=torch.float64) for _ in range(2))
    for part in values.split(list(sizes), dim=1):
        found, known = _cosines(_compared(part, means, setting))
        total += found
        used += known
    result: Float[np.ndarray, " others"] = (total / used.clamp(min=1.0)).numpy()
    return result


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
            "Embed both tasks at their trained experts: before training, no gradient reaches some adapters.",
        )


def _check_components(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    shapes_a = {name: tuple(tensor.shape) for name, tensor in a.items()}
    shapes_b = {name: tuple(tensor.shape) for name, tensor in b.items()}
    if not shapes_a:
        raise ConfigError("an embedding must have components", "none", "Embed the task again.")
    if shapes_a != shapes_b:
        wrong = sorted(
            name for name in shapes_a.keys() | shapes_b.keys() if shapes_a.get(name) != shapes_b.get(name)
        )
        raise ConfigError(
            "embeddings are compared component by component, so both must have the same",
            f"they differ in {', '.join(wrong[:3])}" + (" …" if len(wrong) > 3 else ""),
            "Compare experts of one method and configuration on one backbone.",
        )
