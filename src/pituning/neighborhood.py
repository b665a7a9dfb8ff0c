"""Which experts of a pool may be neighbours of a task, and which of them are nearest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import final

from torch import Tensor

from pituning.card import UNKNOWN
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.foundation import Foundation
from pituning.interpolate.compatible import Space, foreign_to, obstacle
from pituning.pool import Pool
from pituning.predict import Neighbor, TaskEmbedding, TaskGraph, similarity


@final
@dataclass(frozen=True)
class Neighborhood:
    """A pool's experts and those of their embeddings that there are, read once.

    Reading finds altered files and stale embeddings before anything is trained.
    """

    experts: Mapping[str, Expert]
    embeddings: Mapping[str, TaskEmbedding]

    @classmethod
    def of(cls, pool: Pool) -> Neighborhood:
        """Read the pool."""
        embedded = [name for name in pool if pool.has_embedding(name)]
        return cls({name: pool.get(name) for name in pool}, {name: pool.embedding(name) for name in embedded})

    def typical(self, backbone: Foundation) -> Expert | None:
        """An expert of the initialisation that most share, among those of this backbone; None of no expert.

        Raises:
            PoolError: if every expert was trained on another backbone.
        """
        foreign = {name: foreign_to(expert, backbone) for name, expert in self.experts.items()}
        if foreign and all(foreign.values()):
            raise PoolError(
                "the pool must hold experts that were trained on this backbone",
                next(iter(foreign.values())),
                "Name the backbone of the pool, or a pool that was trained on this one.",
            )
        here = [expert for name, expert in self.experts.items() if not foreign[name]]
        known = [expert for expert in here if expert.card.initialisation != UNKNOWN] or here
        counts = Counter(expert.card.initialisation for expert in known)
        return max(known, key=lambda expert: counts[expert.card.initialisation], default=None)

    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> dict[str, str]:
        """Experts that cannot be a neighbour -> the reason."""
        reasons = {name: self._reason(name, own, embedding, space) for name in self.experts}
        return {name: reason for name, reason in reasons.items() if reason}

    def nearest(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[Neighbor]:
        """The experts whose tasks are most like an embedded one; its own task is never among them."""
        names = [name for name in self.embeddings if name not in without]
        if space == "parameters":
            graph = TaskGraph([self.embeddings[name] for name in names], names=names)
            return graph.nearest(embedding, k)
        found: list[Neighbor] = []
        for name in names:  # each compared on the modules that both adapt
            mine, theirs = shared_modules(embedding, self.embeddings[name])
            found += TaskGraph([theirs], names=[name]).nearest(mine, 1)
        return sorted(found, key=lambda neighbor: (-neighbor.similarity, neighbor.name))[:k]

    def similarity(
        self, name: str, embedding: TaskEmbedding, *, space: Space, without: Mapping[str, str]
    ) -> dict[str, dict[str, float]]:
        """All pairs of an embedded task, called `name`, and the experts that `nearest` chooses from.

        In delta space, two experts that adapt no module in common have the similarity 0.
        """
        points = {name: embedding, **{n: e for n, e in self.embeddings.items() if n not in without}}
        if space == "parameters":
            rows = TaskGraph(list(points.values()), names=list(points)).similarity.tolist()
            return {n: dict(zip(points, row, strict=True)) for n, row in zip(points, rows, strict=True)}
        found = {n: {n: 1.0} for n in points}
        for one, two in combinations(points, 2):
            mine, theirs = (shared.components for shared in shared_modules(points[one], points[two]))
            alike = similarity(mine, theirs, setting=embedding.setting) if mine else 0.0
            found[one][two] = found[two][one] = alike
        return found

    def _reason(self, name: str, own: Expert, embedding: TaskEmbedding, space: Space) -> str:
        reason = obstacle(self.experts[name], own, space)
        if reason:
            return reason
        if name not in self.embeddings:
            return f"{name} has no embedding; run `pituning embed`"
        other = self.embeddings[name]
        if (other.setting, other.labels) != (embedding.setting, embedding.labels):
            return f"{name} was embedded with {other.setting} setting and {other.labels} labels"
        if space == "delta" and not shared_modules(embedding, other)[0].components:
            return f"{name} adapts none of the modules that the target's expert adapts"
        return ""


def shared_modules(a: TaskEmbedding, b: TaskEmbedding) -> tuple[TaskEmbedding, TaskEmbedding]:
    """Both embeddings of LoRA experts on the modules that both adapt, summed over the rank.

    The sums have one number an input (A) or output (B) of a module, whatever the experts' ranks.
    """
    one, two = _over_inputs_and_outputs(a.components), _over_inputs_and_outputs(b.components)
    both = [name for name in one if name in two and one[name].shape == two[name].shape]
    return (
        replace(a, components={name: one[name] for name in both}),
        replace(b, components={name: two[name] for name in both}),
    )


def _over_inputs_and_outputs(components: Mapping[str, Tensor]) -> dict[str, Tensor]:
    summed = {}
    for name, tensor in components.items():
        if ".lora_A." in name:
            summed[name] = tensor.sum(dim=0)
        elif ".lora_B." in name:
            summed[name] = tensor.sum(dim=1)
    return summed
