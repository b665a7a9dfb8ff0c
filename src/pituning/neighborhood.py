"""Which experts of a pool may be neighbours of a task, and which of them are nearest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, islice
from typing import TypeVar, final

from torch import Tensor

from pituning.card import UNKNOWN
from pituning.errors import PituningError, PoolError
from pituning.expert import Expert
from pituning.foundation import Foundation
from pituning.interpolate.compatible import Space, foreign_to, obstacle
from pituning.pool import Pool
from pituning.predict import FisherConfig, Neighbor, TaskEmbedding, TaskGraph, similarity
from pituning.predict.embedding import Order
from pituning.predict.graph import check_count
from pituning.predict.similarity import flat_similarities
from pituning.sketches import Candidate, SketchIndex

Found = TypeVar("Found")
log = logging.getLogger(__name__)


# Up to so many experts, all are read, and compared exactly.
EXACT = 500

# Of the experts whose sketches are nearest, so many at a time are read and compared exactly, until the
# nearest have stayed the same for so many times, or the squared difference of every other sketch is so many
# times that of theirs (at least that of two roundings).
AT_ONCE, UNCHANGED, FAR = 24, 3, 1.5
ROUNDED = 1 / 6
SHORTLIST = 384

DRAWN = 30  # in a big pool, `similarity` is of so many of the nearest


@final
class Read(Mapping[str, Found]):
    """What a pool holds by name, read when it is asked for, and kept."""

    def __init__(self, names: Collection[str], read: Callable[[str], Found]) -> None:
        self._names, self._read = names, read
        self._found: dict[str, Found] = {}

    def __getitem__(self, name: str) -> Found:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._read(name)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@final
class Refused(dict[str, str]):
    """Expert -> the reason; in a big pool, of the experts that were asked about."""

    def __init__(self, reason: Callable[[str], str]) -> None:
        super().__init__()
        self._reason, self._accepted = reason, set[str]()

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
class Neighborhood:
    """A pool's experts and those of their embeddings that there are.

    Of a pool of at most `EXACT` experts, all are read at once, which finds altered files and stale
    embeddings before anything is trained. Of a bigger one, those that are asked for; the nearest are looked
    for among the experts whose sketches are nearest.
    """

    experts: Mapping[str, Expert]
    embeddings: Mapping[str, TaskEmbedding]
    index: SketchIndex | None = None
    pool: Pool | None = None

    @classmethod
    def of(cls, pool: Pool, *, exact: int = EXACT) -> Neighborhood:
        """Read the pool, or its sketches where it holds more than `exact` experts."""
        names = list(pool)
        if len(names) > exact:
            index = pool.sketches()
            digests = index.embedded()
            read = Read(digests, lambda name: pool.embedding(name, digests[name].hex()))
            return cls(Read({*names}, pool.get), read, index, pool)
        found = {name: pool.read(name) for name in names}
        embeddings = {name: embedding for name, (_, embedding) in found.items() if embedding}
        return cls({name: expert for name, (expert, _) in found.items()}, embeddings)

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
        if not self.index:  # there, each name stands for many
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
        found = self._embedded_starts()
        if not self.index:
            return any(embedding.manner == config.manner for embedding in found)
        made = partial(replace, setting=config.setting, labels=config.labels, at=config.where)
        return any(self.index.holds(made(embedding)) for embedding in found)

    def _embedded_starts(self) -> list[TaskEmbedding]:
        return [self.embeddings[name] for name in self._starts() if name in self.embeddings]

    def _starts(self) -> list[str]:
        """All experts; in a big pool one of each kind, for those of one start are alike."""
        return self.index.starts() if self.index else list(self.experts)

    def refusals(self, own: Expert, embedding: TaskEmbedding, space: Space) -> dict[str, str]:
        """Experts that cannot be a neighbour -> the reason; in a big pool, see `Refused`."""
        if self.index:
            return Refused(lambda name: self._reason(name, own, embedding, space))
        reasons = {name: self._reason(name, own, embedding, space) for name in self.experts}
        return {name: reason for name, reason in reasons.items() if reason}

    def nearest(
        self, embedding: TaskEmbedding, k: int, *, space: Space, without: Mapping[str, str]
    ) -> list[Neighbor]:
        """The experts whose tasks are most like an embedded one; its own task is never among them."""
        check_count(k)
        if self.index and space == "parameters":
            return self._nearest_by_sketch(embedding, k, without)
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

        In delta space, two experts that adapt no module in common have the similarity 0. In a big pool, of
        the nearest alone: `DRAWN`, or `k` if that is more.
        """
        if self.index:
            nearest = self.nearest(embedding, max(DRAWN, k), space=space, without=without)
            shown = [neighbor.name for neighbor in nearest]
        else:
            shown = [n for n in self.embeddings if n not in without]
        points = {name: embedding, **{n: self.embeddings[n] for n in shown}}
        if space == "parameters":
            rows = TaskGraph(list(points.values()), names=list(points)).similarity.tolist()
            return {n: dict(zip(points, row, strict=True)) for n, row in zip(points, rows, strict=True)}
        return similarities_in_delta(points)

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

    def _nearest_by_sketch(
        self, embedding: TaskEmbedding, k: int, without: Mapping[str, str]
    ) -> list[Neighbor]:
        """Compare exactly, from the nearest sketches on, until nothing better is found."""
        if self.index is None or self.pool is None:
            return []
        mine = embedding.components
        similarity(mine, mine, setting=embedding.setting)  # raises where the embedding says nothing
        order = Order(mine)
        flat = order.flat(mine)
        candidates, unchanged = self.index.nearest(embedding, SHORTLIST), 0
        if not candidates and self.embeddings:
            log.warning("no expert of the pool has the same tensors, embedded %s", embedding.manner)
        alike: dict[str, float] = {}
        found: list[str] = []
        for start in range(0, len(candidates), AT_ONCE):
            batch = [one for one in candidates[start : start + AT_ONCE] if one.name not in alike]
            files = {one.name: content for one in batch if (content := _file(self.pool, one))}
            values = [order.values(content, self.pool.path / name) for name, content in files.items()]
            compared = flat_similarities(flat, values, order.sizes, setting=embedding.setting)
            alike |= dict(zip(files, compared.tolist(), strict=True))
            best = sorted(alike, key=lambda name: (-alike[name], name))
            helpful = (name for name in best if self._may_help(name, embedding, without))
            before, found = found, [*islice(helpful, k)]
            unchanged = unchanged + 1 if found == before and len(found) == k else 0
            apart = len(found) == k and _lie_apart(found, candidates, start + AT_ONCE)
            if unchanged == UNCHANGED or apart:
                break
        return [Neighbor(name, alike[name]) for name in found]

    def _may_help(self, name: str, embedding: TaskEmbedding, without: Mapping[str, str]) -> bool:
        """Whether an expert is of another task, and not refused."""
        return self.embeddings[name].differs(embedding) and name not in without

    def _reason(self, name: str, own: Expert, embedding: TaskEmbedding, space: Space) -> str:
        # What stands in the way in parameter space is the same for all of one start.
        alike = self.index and space == "parameters" and self.index.starts_like(name, own)
        reason = obstacle(own if alike else self.experts[name], own, space)
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


def tell_fewer(found: Sequence[Neighbor], k: int) -> None:
    """Say that there are fewer neighbours than asked for."""
    if len(found) < k:
        log.warning("k is %d, but %d of the pool's experts can be neighbours", k, len(found))


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


def similarities_in_delta(points: Mapping[str, TaskEmbedding]) -> dict[str, dict[str, float]]:
    """All pairs of embeddings of LoRA experts of any rank, made in one manner; see `shared_modules`.

    Two that adapt no module in common, or learn nothing there, have the similarity 0.
    """
    summed = {name: _over_inputs_and_outputs(point.components) for name, point in points.items()}
    found = {name: {name: 1.0} for name in points}
    for one, two in combinations(points, 2):
        mine, theirs = _shared(summed[one], summed[two])
        comparable = any(bool(mine[part].any() and theirs[part].any()) for part in mine)
        alike = similarity(mine, theirs, setting=points[one].setting) if comparable else 0.0
        found[one][two] = found[two][one] = alike
    return found


def shared_modules(a: TaskEmbedding, b: TaskEmbedding) -> tuple[TaskEmbedding, TaskEmbedding]:
    """Both embeddings of LoRA experts on the modules that both adapt, summed over the rank.

    The sums have one number an input (A) or output (B) of a module, whatever the experts' ranks.
    """
    one, two = _shared(*(_over_inputs_and_outputs(embedding.components) for embedding in (a, b)))
    return replace(a, components=one), replace(b, components=two)


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
