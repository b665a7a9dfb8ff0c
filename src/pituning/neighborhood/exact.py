"""A pool whose experts are all read, and compared exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from pituning.expert import Expert
from pituning.interpolate.compatible import Space, obstacle
from pituning.neighborhood.base import Neighborhood
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, TaskGraph


@final
@dataclass(frozen=True)
class ExactNeighborhood(Neighborhood):
    """All experts are read, which finds altered files and stale embeddings before anything is trained."""

    @classmethod
    def of(cls, pool: Pool) -> ExactNeighborhood:
        """Read the pool."""
        found = {name: pool.read(name) for name in pool}
        embeddings = {name: embedding for name, (_, embedding) in found.items() if embedding}
        return cls({name: expert for name, (expert, _) in found.items()}, embeddings)

    def compares(self, config: FisherConfig) -> bool:
        """Whether an expert's embedding was made so."""
        return any(embedding.manner == config.manner for embedding in self.embeddings.values())

    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> Mapping[str, str]:
        """Experts that cannot be a neighbour -> the reason."""
        reasons = {name: self._reason(name, own, embedding, space) for name in self.experts}
        return {name: reason for name, reason in reasons.items() if reason}

    def _nearest(self, embedding: TaskEmbedding, k: int, without: Mapping[str, str]) -> list[Neighbor]:
        names = [name for name in self.embeddings if name not in without]
        return TaskGraph([self.embeddings[name] for name in names], names=names).nearest(embedding, k)

    def _starts(self) -> list[str]:
        return list(self.experts)

    def _may_teach(self, name: str) -> bool:
        return name in self.embeddings and not self.experts[name].untrained

    def _obstacle(self, name: str, own: Expert, space: Space) -> str:
        return obstacle(self.experts[name], own, space)

    def _drawn(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[str]:
        return [name for name in self.embeddings if name not in without]

    def _reach(self, k: int) -> int:
        return max(len(self.embeddings), 1)
