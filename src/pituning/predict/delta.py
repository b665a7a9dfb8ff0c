"""Embeddings of LoRA experts of any rank, compared on the modules that they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from pituning.predict.embedding import TaskEmbedding
from pituning.predict.similarity import all_similarities


def similarities_in_delta(points: Mapping[str, TaskEmbedding]) -> dict[str, dict[str, float]]:
    """All pairs of embeddings of LoRA experts of any rank, made in one manner; see `shared_modules`.

    Two that adapt no module in common, or learn nothing there, have the similarity 0.
    """
    summed = {name: _over_inputs_and_outputs(point.components) for name, point in points.items()}
    kinds: dict[frozenset[tuple[str, torch.Size]], list[str]] = {}
    for name, components in summed.items():
        kinds.setdefault(frozenset((n, t.shape) for n, t in components.items()), []).append(name)
    found = {name: dict.fromkeys(points, 0.0) | {name: 1.0} for name in points}
    for (one, mine), (two, theirs) in combinations_with_replacement(kinds.items(), 2):
        both = [component for component, _ in one & two]
        names = mine if one is two else [*mine, *theirs]
        if not both or len(names) < 2:
            continue
        shared = [{component: summed[name][component] for component in both} for name in names]
        matrix = all_similarities(shared, setting=points[names[0]].setting, strict=False)
        alike = {
            name: dict(zip(names, row, strict=True)) for name, row in zip(names, matrix.tolist(), strict=True)
        }
        for a, b in product(mine, theirs):
            found[a][b] = found[b][a] = alike[a][b]
    return found


def comparable(a: TaskEmbedding, b: TaskEmbedding) -> bool:
    """Whether both learn something in a module that both adapt."""
    mine, theirs = shared_modules(a, b)
    return _meet(mine.components, theirs.components)


def shared_modules(a: TaskEmbedding, b: TaskEmbedding) -> tuple[TaskEmbedding, TaskEmbedding]:
    """Both embeddings of LoRA experts on the modules that both adapt, summed over the rank.

    The sums have one number an input (A) or output (B) of a module, whatever the experts' ranks.
    """
    one, two = _shared(*(_over_inputs_and_outputs(embedding.components) for embedding in (a, b)))
    return replace(a, components=one), replace(b, components=two)


def _meet(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return any(bool(a[name].any() and b[name].any()) for name in a)


def _shared(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those of one name and shape."""
    both = [name for name in a if name in b and a[name].shape == b[name].shape]
    return {name: a[name] for name in both}, {name: b[name] for name in both}


def _over_inputs_and_outputs(components: Mapping[str, Tensor]) -> dict[str, Tensor]:
    summed = {}
    for name, tensor in components.items():
        if ".lora_A." in name:
            summed[name] = tensor.sum(dim=0)
        elif ".lora_B." in name:
            summed[name] = tensor.sum(dim=1)
    return summed
