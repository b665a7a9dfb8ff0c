"""A pool's experts around a task: which may be its neighbours, and which of them are nearest."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pituning.backbones import Backbone
from pituning.card import UNKNOWN
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.interpolate.compatible import Space, foreign_to, obstacles_alone, trained_beyond
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, TaskGraph
from pituning.predict.delta import comparable, shared_modules, similarities_in_delta
from pituning.predict.graph import check_count
from pituning.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighborhood(ABC):
    """A pool's experts, and those of their embeddings that there are."""

    experts: Mapping[str, Expert]
    embeddings: Mapping[str, TaskEmbedding]

    @abstractmethod
    def compares(self, config: FisherConfig) -> bool:
        """Whether an expert's embedding was made so."""

    @abstractmethod
    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> Mapping[str, str]:
        """Experts that cannot be a neighbour -> the reason; of many, those that were asked about."""

    @abstractmethod
    def _nearest(self, embedding: TaskEmbedding, k: int, without: Mapping[str, str]) -> list[Neighbor]:
        """`nearest` in parameter space."""

    @abstractmethod
    def _starts(self) -> list[str]:
        """Experts among which each kind of start is found."""

    @abstractmethod
    def _may_teach(self, name: str) -> bool:
        """Whether an expert of `_starts`, or one that it stands for, may be a neighbour at all."""

    @abstractmethod
    def _obstacle(self, name: str, own: Expert, space: Space) -> str:
        """See `obstacle`."""

    @abstractmethod
    def _drawn(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[str]:
        """Experts that `similarity` is of."""

    @abstractmethod
    def _reach(self, k: int) -> int:
        """How many the `others` are at most."""

    def typical(self, backbone: Backbone, space: Space = "parameters") -> Expert | None:
        """An expert of the initialisation that most share, among those of this backbone; None of no expert.

        Where none tells its initialisation, and in delta space, which asks for none, it has the method, rank
        and modules of most that are looked at (of a big pool, one of each start). In delta space it is one
        that can be mixed there, and None where none can.

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
        if space == "delta":
            heads = backbone.head_modules(backbone.model)
            names = [name for name in names if not obstacles_alone(self.experts[name], space)]
            names = [name for name in names if not trained_beyond(self.experts[name], heads)]
        starts = {name: self.experts[name].card.initialisation for name in names}
        kinds = {name: _kind(self.experts[name]) for name in names}
        of_start = Counter(start for start in starts.values() if start != UNKNOWN)
        of_kind = Counter(kinds.values())

        def alike(name: str) -> tuple[int, int]:
            """How many share its start, and its method, rank and modules: what decides first, first."""
            found = of_start[starts[name]], of_kind[kinds[name]]
            return found if space == "parameters" else found[::-1]

        chosen = max(names, key=alike, default=None)
        return self.experts[chosen] if chosen else None

    def obstacles(self, own: Expert, target: Task, space: Space) -> dict[str, str]:
        """An expert of another task, of each kind of start -> why it cannot be mixed with `own`.

        "" where it can, or where one of those that it stands for may.
        """
        starts, found = self._starts(), dict[str, str]()
        for name in starts:
            card = self.experts[name].card
            if card.task != target.name and card.source != target.source:
                varied = card.initialisation == UNKNOWN and len(starts) < len(self.experts)
                found[name] = "" if varied else self._obstacle(name, own, space)
        return found

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

    def _embedded_starts(self) -> Iterator[TaskEmbedding]:
        return (self.embeddings[name] for name in self._starts() if name in self.embeddings)

    def nearest(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[Neighbor]:
        """The experts whose tasks are most like an embedded one; its own task is never among them."""
        check_count(k)
        if space == "parameters":
            return self._nearest(embedding, k, without)
        found: list[Neighbor] = []
        for name in self.embeddings:  # each compared on the modules that both adapt
            if name not in without:
                mine, theirs = shared_modules(embedding, self.embeddings[name])
                found += TaskGraph([theirs], names=[name]).nearest(mine, 1)
        return sorted(found, key=lambda neighbor: (-neighbor.similarity, neighbor.name))[:k]

    def others(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[Expert]:
        """All that could be neighbours, the most alike first; of many, the nearest 30, or `k` if more."""
        found = self.nearest(embedding, self._reach(k), space=space, without=without)
        return [self.experts[neighbor.name] for neighbor in found]

    def similarity(
        self, name: str, embedding: TaskEmbedding, *, k: int, space: Space, without: Mapping[str, str]
    ) -> dict[str, dict[str, float]]:
        """All pairs of an embedded task, called `name`, and the experts that can be mixed with its own.

        Experts of the task itself are among them; of a big pool, the `others` are it alone. In delta space,
        two that adapt no module in common have the similarity 0.
        """
        drawn = self._drawn(embedding, k, space=space, without=without)
        points = {name: embedding, **{n: self.embeddings[n] for n in drawn}}
        if space == "parameters":
            rows = TaskGraph(list(points.values()), names=list(points)).similarity.tolist()
            return {n: dict(zip(points, row, strict=True)) for n, row in zip(points, rows, strict=True)}
        return similarities_in_delta(points)

    def refused_others(self, refused: Mapping[str, str], embedding: TaskEmbedding) -> dict[str, str]:
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
        if space == "delta" and not embedding.is_zero and not comparable(embedding, other):
            return f"{name} and the target's expert adapt no module in common that both learn something in"
        if self.experts[name].untrained:
            return f"{name} learnt nothing of its own task: it is best as it was before training"
        return ""


def _kind(expert: Expert) -> str:
    modules = getattr(expert.config, "target_modules", None) or ""
    named = modules if isinstance(modules, str) else sorted(modules)
    return f"{expert.method} {getattr(expert.config, 'r', '')} {named}"


def tell_fewer(found: Sequence[Neighbor], k: int) -> None:
    """Say that there are fewer neighbours than asked for."""
    if len(found) < k:
        log.warning("k is %d, but %d of the pool's experts can be neighbours", k, len(found))
