"""A sketch: 512 bytes of an embedding, to guess which embeddings are worth comparing exactly.

With u = log a - log b, a / (a + b) is sigmoid(u): the similarity depends on the log ratio alone. So a sketch
holds log values, brought to mean 0 and deviation 1 in each component as the similarity does, and two alike
embeddings have sketches that are near as vectors. Three quarters of the variance in a component of real
embeddings belong to whole rows and columns of the matrix: their effects and what is left of single numbers
take turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8
from torch import Tensor

from pituning.predict.embedding import TaskEmbedding
from pituning.predict.similarity import EPSILON, LEAST_DEVIATION, ROUNDING

SIZE = 512

# Of what is further than 8 deviations from a component's mean, only that is held.
STEP = 8 / 127
UNKNOWN = -128  # the component is zero: the similarity leaves it out

# `Sketches.nearest` looks at so many values of every sketch, then at all values of so many sketches.
FIRST = 128
SECOND = 4096


def layout(embedding: TaskEmbedding) -> bytes:
    """What two embeddings must share to be compared: components, and how they were made; 8 bytes."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in sorted(embedding.components.items())]
    return hashlib.sha256(repr((shapes, embedding.manner)).encode()).digest()[:8]


def sketch(components: Mapping[str, Tensor]) -> Int8[np.ndarray, " size"]:
    """The sketch of an embedding; those of one layout can be compared.

    Example:
        >>> import torch
        >>> one = {"w": torch.arange(1.0, 513.0).reshape(8, 64)}
        >>> bool((sketch(one) == sketch({"w": 4 * one["w"]})).all())
        True
    """
    values = {name: components[name].detach().numpy() for name in sorted(components)}
    mean = sum(float(v.sum(dtype=np.float64)) for v in values.values()) / sum(v.size for v in values.values())
    found = np.empty(SIZE, np.int8)
    turns = _turns(len(values))
    for index, value in enumerate(values.values()):
        mine = np.flatnonzero(turns == index)
        if not mine.size:
            continue
        scaled = value.reshape(len(value) if value.ndim else 1, -1) / np.float32(mean or 1.0)
        if scaled.max() <= ROUNDING:
            found[mine] = UNKNOWN
            continue
        logs = np.log(scaled + np.float32(EPSILON))
        standard = (logs - logs.mean()) / max(float(logs.std()), LEAST_DEVIATION)
        effects = _effects(standard, mine.size, index)
        found[mine] = np.clip(np.rint(effects / STEP), -127, 127)
    return found


def _effects(
    logs: Float32[np.ndarray, "rows columns"], size: int, component: int
) -> Float32[np.ndarray, " size"]:
    """Effects of rows, of columns and of single numbers in turns, as long as there are any.

    In a squared distance each of the three weighs the same, however many places it has.
    """
    kinds = [logs.ravel()]
    if min(logs.shape) > 1:
        rows, columns = logs.mean(axis=1, keepdims=True), logs.mean(axis=0, keepdims=True)
        kinds = [rows.ravel(), columns.ravel(), (logs - rows - columns).ravel()]
    found = np.empty(size, np.float32)
    drawn = _places(tuple(kind.size for kind in kinds), size, component)
    for kind, (places, picked) in zip(kinds, drawn, strict=True):
        found[places] = kind[picked] * np.sqrt(size / (len(kinds) * max(1, places.size)))
    return found


@lru_cache(maxsize=1024)
def _places(
    sizes: tuple[int, ...], size: int, component: int
) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
    """Of each kind of effect, of which there are `sizes`: where it stands, and which values stand there."""
    turns = [
        (rank, (kind + component) % len(sizes), kind)
        for kind, most in enumerate(sizes)
        for rank in range(min(most, size))
    ]
    whose = np.resize([kind for *_, kind in sorted(turns)[:size]], size)
    draw = np.random.RandomState(component)  # its numbers are the same in every version of NumPy
    places = [np.flatnonzero(whose == kind) for kind in range(len(sizes))]
    return [
        (mine, np.resize(draw.permutation(most), mine.size)) for mine, most in zip(places, sizes, strict=True)
    ]


@lru_cache(maxsize=64)
def _turns(components: int) -> Int[np.ndarray, " size"]:
    """Whose each value of a sketch is.

    Components take turns, so that all weigh the same and any beginning of a sketch has some of each.
    """
    order: Int[np.ndarray, " components"] = np.random.RandomState(0).permutation(components)
    return order[np.arange(SIZE) % components]


@final
class Sketches:
    """Many sketches of one layout, for the nearest of which to look."""

    def __init__(self, values: Int8[np.ndarray, "n size"]) -> None:
        self._values = values
        first = values[:, :FIRST]
        unknown = first == UNKNOWN
        # Which values are unknown is the same for many: one row for each way, and the way of each sketch.
        self._known, self._way = _ways(~unknown)
        self._first = first.astype(np.float32)
        self._first[unknown] = 0.0
        self._squares = np.einsum("ns,ns->n", self._first, self._first)

    def nearest(
        self, query: Int8[np.ndarray, " size"], most: int
    ) -> tuple[Int[np.ndarray, " most"], Float[np.ndarray, " most"]]:
        """The sketches with the least mean squared difference, least first: indices and differences."""
        there = np.where(query == UNKNOWN, 0, query).astype(np.float32)
        known = self._known.astype(np.float32)
        square = known @ np.square(there[:FIRST])
        counts = known.sum(axis=1).clip(min=1.0)
        distances = self._squares - 2.0 * (self._first @ there[:FIRST])
        distances = (distances + square[self._way]) / counts[self._way]
        chosen = _least(distances, SECOND)
        values = self._values[chosen]
        unknown = values == UNKNOWN
        difference = values.astype(np.float32)
        difference -= there
        if unknown.any():
            difference[unknown] = 0.0
        distances = np.einsum("ns,ns->n", difference, difference) / (SIZE - unknown.sum(axis=1)).clip(min=1)
        order = np.argsort(distances, kind="stable")[:most]
        return chosen[order], distances[order]


def _ways(known: Bool[np.ndarray, "n first"]) -> tuple[Bool[np.ndarray, "ways first"], Int[np.ndarray, " n"]]:
    """The different rows, and which of them each row is."""
    packed = np.ascontiguousarray(np.packbits(known, axis=1))
    _, index, way = np.unique(
        packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    return known[index], way


def _least(distances: Float32[np.ndarray, " n"], most: int) -> Int[np.ndarray, " least"]:
    """Indices of the least, in the order of the indices."""
    if most >= len(distances):
        return np.arange(len(distances))
    return np.sort(np.argpartition(distances, most)[:most])
