"""A pool whose experts are all read: which may be neighbours of a task, and which of them are nearest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pituning.card import UNKNOWN
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.foundation import Foundation
from pituning.interpolate.compatible import Space, foreign_to, obstacle
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, TaskGraph
from pituning.predict.delta import shared_modules, similarities_in_delta
from pituning.predict.graph import check_count


@dataclass(frozen=True)
class Neighborhood:
    """A pool's experts and those of their embeddings that there are."""

    experts: Mapping[str, Expert]
    embeddings: Mapping[str, TaskEmbedding]

    @classmethod
    def of(cls, pool: Pool) -> Neighborhood:
        """Read all, which finds altered files and stale embeddings before anything is trained."""
        found = {name: pool.read(name) for name in pool}
        embeddings = {name: embedding for name, (_, embedding) in found.items() if embedding}
        return Neighborhood({name: expert for name, (expert, _) in found.items()}, embeddings)

    def typical(self, backbone: Foundation) -> Expert | None:
        """An expert of the initialisation that most share, among those of this backbone; None of no expert.

        Raises:
            PoolError: if every expert was trained on another backbone.
        """
        foreign = {name: foreign_to(self.experts[name], backbone) for name in self._starts()}
        if foreign and all(foreign.values()):
            raise PoolError(
                "the pool must hold experts that were trained on this backbone",
                next(iter(foreign.values())),
                "Name the backbone of the pool, or a pool that was trained on this one.",
            )
        names = [name for name in foreign if not foreign[name]]
        names = [name for name in names if self._may_teach(name)] or names
        here = [self.experts[name] for name in names]
        known = [expert for expert in here if expert.card.initialisation != UNKNOWN] or here
        counts = Counter(expert.card.initialisation for expert in known)
        return max(known, key=lambda expert: counts[expert.card.initialisation], default=None)

    def _may_teach(self, name: str) -> bool:
        return name in self.embeddings and not self.experts[name].untrained

    def backbone_name(self) -> str:
        """What most cards say; "" where none tells."""
        names = Counter(self.experts[name].card.backbone_name for name in self._starts())
        return next((name for name, _ in names.most_common() if name), "")

    def check_manner(self, config: FisherConfig) -> None:
        """Find out before anything is trained whether what is embedded so can be compared with any expert.

        Raises:
            PoolError: if there are embeddings, but none that was made so.
        """
        found = {embedding.manner for embedding in self._embedded_starts()}
        if found and not self.compares(config):
            must = "the target and the experts of the pool must be embedded in one way"
            given = f"the target {config.manner}, the experts {' or '.join(sorted(found))}"
            fix = "Give the options that the pool was embedded with, or run `pituning embed` on its experts."
            raise PoolError(must, given, fix)

    def compares(self, config: FisherConfig) -> bool:
        """Whether an expert's embedding was made so."""
        return any(embedding.manner == config.manner for embedding in self._embedded_starts())

    def _embedded_starts(self) -> list[TaskEmbedding]:
        return [self.embeddings[name] for name in self._starts() if name in self.embeddings]

    def _starts(self) -> list[str]:
        """Experts among which each kind of start is found."""
        return list(self.experts)

    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> Mapping[str, str]:
        """Experts that cannot be a neighbour -> the reason."""
        reasons = {name: self._reason(name, own, embedding, space) for name in self.experts}
        return {name: reason for name, reason in reasons.items() if reason}

    def nearest(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[Neighbor]:
        """The experts whose tasks are most like an embedded one; its own task is never among them."""
        check_count(k)
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
        self, name: str, embedding: TaskEmbedding, *, k: int, space: Space, without: Mapping[str, str]
    ) -> dict[str, dict[str, float]]:
        """All pairs of an embedded task, called `name`, and the experts that `nearest` chooses from.

        In delta space, two experts that adapt no module in common have the similarity 0.
        """
        shown = self._shown(embedding, k, space=space, without=without)
        points = {name: embedding, **{n: self.embeddings[n] for n in shown}}
        if space == "parameters":
            rows = TaskGraph(list(points.values()), names=list(points)).similarity.tolist()
            return {n: dict(zip(points, row, strict=True)) for n, row in zip(points, rows, strict=True)}
        return similarities_in_delta(points)

    def _shown(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[str]:
        return [name for name in self.embeddings if name not in without]

    def others(self, alike: Mapping[str, float], embedding: TaskEmbedding) -> list[Expert]:
        """The experts named in `alike` that are of another task than the one embedded, highest first."""
        names = sorted(alike.keys() & self.embeddings.keys(), key=lambda name: (-alike[name], name))
        return [self.experts[name] for name in names if self.embeddings[name].differs(embedding)]

    def told(self, refused: Mapping[str, str], embedding: TaskEmbedding) -> dict[str, str]:
        """Those refused, without the experts of the embedded task itself, which would be none anyway."""
        return {
            name: why
            for name, why in refused.items()
            if name not in self.embeddings or self.embeddings[name].differs(embedding)
        }

    def _reason(self, name: str, own: Expert, embedding: TaskEmbedding, space: Space) -> str:
        reason = self._obstacle(name, own, space)
        if reason:
            return reason
        if name not in self.embeddings:
            return f"{name} has no embedding; run `pituning embed`"
        other = self.embeddings[name]
        if other.manner != embedding.manner:
            return f"{name} was embedded {other.manner}, and not {embedding.manner}; see `pituning embed`"
        if other.is_zero:
            return f"{name} has an embedding that is zero everywhere: its task teaches nothing"
        if space == "delta" and not shared_modules(embedding, other)[0].components:
            return f"{name} adapts none of the modules that the target's expert adapts"
        if self.experts[name].untrained:
            return f"{name} learnt nothing of its own task: it is best as it was before training"
        return ""

    def _obstacle(self, name: str, own: Expert, space: Space) -> str:
        return obstacle(self.experts[name], own, space)
