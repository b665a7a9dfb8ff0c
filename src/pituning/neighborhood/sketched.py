"""A pool of many experts: those are read whose sketches are nearest, and those that are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import islice
from typing import TypeVar, final

from pituning.errors import PituningError
from pituning.expert import Expert
from pituning.interpolate.compatible import Space, obstacle
from pituning.neighborhood.base import Neighborhood
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, similarity
from pituning.predict.embedding import Order
from pituning.predict.similarity import flat_similarities
from pituning.sketches import Candidate, SketchIndex, start_key

Found = TypeVar("Found")
log = logging.getLogger(__name__)

# Of the experts whose sketches are nearest, so many at a time are read and compared exactly, until the
# nearest have stayed the same for so many times, or the squared difference of every other sketch is so many
# times that of theirs (at least that of two roundings).
AT_ONCE, UNCHANGED, FAR = 24, 3, 1.5
ROUNDED = 1 / 6
SHORTLIST = 384

DRAWN = 30  # `similarity` and `others` are of so many of the nearest

# So many experts, and as many embeddings, are kept in memory; others are read again. Embeddings are compared
# at the same time as long as they are no larger together than this.
KEPT, TOGETHER = 32, 1 << 26


@final
class Read(Mapping[str, Found]):
    """What a pool holds by name, read when it is asked for; what was asked for last is kept."""

    def __init__(self, names: Collection[str], read: Callable[[str], Found]) -> None:
        self._names, self._read = names, lru_cache(KEPT)(read)

    def __getitem__(self, name: str) -> Found:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@final
class Refused(dict[str, str]):
    """Expert -> the reason, of the experts that were asked about.

    Args:
        reason: why an expert is refused; "" where it is not.
        start: see `start_key`; all of another are refused.
    """

    def __init__(self, reason: Callable[[str], str], start: bytes | None) -> None:
        super().__init__()
        self._reason, self._accepted = reason, set[str]()
        self.start = start

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name not in self._accepted and not super().__contains__(name):
            reason = self._reason(name)
            if reason:
                self[name] = reason
            else:
                self._accepted.add(name)
        return super().__contains__(name)


@final
@dataclass(frozen=True)
class SketchedNeighborhood(Neighborhood):
    """Experts and embeddings of the pool are read when they are asked for."""

    index: SketchIndex
    pool: Pool

    @classmethod
    def of(cls, pool: Pool) -> SketchedNeighborhood:
        """Read the sketches."""
        index = pool.sketches()
        digests = index.embedded()
        embeddings = Read(digests, lambda name: pool.embedding(name, digests[name].hex()))
        return cls(Read({*pool}, pool.get), embeddings, index, pool)

    def compares(self, config: FisherConfig) -> bool:
        """Whether an expert's embedding was made so."""
        made = partial(replace, setting=config.setting, labels=config.labels, at=config.where)
        return any(self.index.holds(made(embedding)) for embedding in self._embedded_starts())

    def _starts(self) -> list[str]:
        """One of each kind, for those of one start are alike."""
        return self.index.starts()

    def _may_teach(self, name: str) -> bool:
        return True  # one of those that it stands for

    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> Mapping[str, str]:
        """See `Refused`."""
        start = start_key(own) if space == "parameters" else None
        return Refused(lambda name: self._reason(name, own, embedding, space), start)

    def _nearest(self, embedding: TaskEmbedding, k: int, without: Mapping[str, str]) -> list[Neighbor]:
        """Compare exactly, from the nearest sketches on, until nothing better is found."""
        mine = embedding.components
        similarity(mine, mine, setting=embedding.setting)  # raises where the embedding says nothing
        order = Order(mine)
        flat = order.flat(mine)
        start = without.start if isinstance(without, Refused) else None
        candidates, unchanged = self.index.nearest(embedding, SHORTLIST, start=start), 0
        if not candidates and self.embeddings:
            log.warning(
                "no expert of the pool began alike, or has the same tensors, embedded %s", embedding.manner
            )
        alike: dict[str, float] = {}
        found: list[str] = []
        may_help = cache(partial(self._may_help, embedding, without))
        for first in range(0, len(candidates), AT_ONCE):
            batch = [one for one in candidates[first : first + AT_ONCE] if one.name not in alike]
            for part in _parts(batch, flat.nbytes):
                files = {one.name: content for one in part if (content := _file(self.pool, one))}
                values = [order.values(content, self.pool.path / name) for name, content in files.items()]
                compared = flat_similarities(flat, values, order.sizes, setting=embedding.setting)
                alike |= dict(zip(files, compared.tolist(), strict=True))
            best = sorted(alike, key=lambda name: (-alike[name], name))
            before, found = found, [*islice(filter(may_help, best), k)]
            unchanged = unchanged + 1 if found == before and len(found) == k else 0
            apart = len(found) == k and _lie_apart(found, candidates, first + AT_ONCE)
            if unchanged == UNCHANGED or apart:
                break
        return [Neighbor(name, alike[name]) for name in found]

    def _drawn(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[str]:
        found = self.nearest(embedding, self._reach(k), space=space, without=without)
        return [neighbor.name for neighbor in found]

    def _reach(self, k: int) -> int:
        return max(DRAWN, k)

    def _may_help(self, embedding: TaskEmbedding, without: Mapping[str, str], name: str) -> bool:
        """Whether an expert is of another task, and not refused."""
        return self.embeddings[name].differs(embedding) and name not in without

    def _obstacle(self, name: str, own: Expert, space: Space) -> str:
        # In parameter space, what stands in the way is the same for all of one start.
        alike = space == "parameters" and self.index.starts_like(name, own)
        return obstacle(own if alike else self.experts[name], own, space)


def _parts(candidates: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    """As many at a time as are compared together, each having so many bytes."""
    together = max(1, TOGETHER // size)
    return (candidates[first : first + together] for first in range(0, len(candidates), together))


def _file(pool: Pool, one: Candidate) -> bytes:
    """The embedding's file; empty if it went when another process removed or replaced the expert."""
    try:
        return pool.embedding_file(one.name, one.digest)
    except PituningError:
        if one.name in pool and pool.has_embedding(one.name):
            raise
        return b""


def _lie_apart(found: Collection[str], candidates: Sequence[Candidate], read: int) -> bool:
    """Whether the sketches of the experts found are much nearer than those of all that were not read."""
    farthest = max([ROUNDED, *(one.distance for one in candidates[:read] if one.name in found)])
    return read < len(candidates) and candidates[read].distance > FAR * farthest
