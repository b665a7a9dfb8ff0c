"""A sketch: 512 bytes of an embedding, to guess which embeddings are worth comparing exactly.

With u = log a - log b, a / (a + b) is sigmoid(u): the similarity depends on the log ratio alone, and a
constant added to u within a component hardly changes its cosine. So a sketch holds log values, each less the
mean of its component, at fixed places, and two alike embeddings have sketches that are near as vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8
from torch import Tensor

from pituning.predict.embedding import TaskEmbedding
from pituning.predict.similarity import EPSILON, ROUNDING

SIZE = 512

# Log values lie within 8 of their component's mean (real ones have a standard deviation of 0.6 to 1.1).
STEP = 8 / 127
UNKNOWN = -128  # the component is zero: the similarity leaves it out

# `Sketches.nearest` looks at so many values of every sketch, then at all values of so many sketches.
FIRST = 128
SECOND = 4096


def layout(embedding: TaskEmbedding) -> bytes:
    """What two embeddings must share to be compared: components, setting and labels; 8 bytes."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in sorted(embedding.components.items())]
    return hashlib.sha256(repr((shapes, embedding.setting, embedding.labels)).encode()).digest()[:8]


def sketch(components: Mapping[str, Tensor]) -> Int8[np.ndarray, " size"]:
    """The sketch of an embedding; those of one layout can be compared.

    Example:
        >>> import torch
        >>> one = {"w": torch.rand(8, 64)}
        >>> bool((sketch(one) == sketch({"w": 5 * one["w"]})).all())
        True
    """
    values = {name: components[name].detach().numpy().ravel() for name in sorted(components)}
    mean = sum(float(v.sum(dtype=np.float64)) for v in values.values()) / sum(v.size for v in values.values())
    found = np.empty(SIZE, np.int8)
    places = _places(tuple((name, v.size) for name, v in values.items()))
    for name, (mine, picked) in places.items():
        scaled = values[name] / np.float32(mean or 1.0)
        if scaled.max() <= ROUNDING:
            found[mine] = UNKNOWN
            continue
        logs = np.log(scaled + np.float32(EPSILON))
        found[mine] = np.clip(np.rint((logs[picked] - logs.mean()) / STEP), -127, 127)
    return found


@lru_cache(maxsize=64)
def _places(
    sizes: tuple[tuple[str, int], ...],
) -> dict[str, tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
    """Component -> where its values stand in the sketch, and where they come from.

    Components take turns, so that all weigh the same and any beginning of a sketch has some of each.
    """
    draw = np.random.RandomState(0)  # its numbers are the same in every version of NumPy
    turns = draw.permutation(len(sizes))[np.arange(SIZE) % len(sizes)]
    found = {}
    for index, (name, size) in enumerate(sizes):
        mine = np.flatnonzero(turns == index)
        if mine.size:
            found[name] = (mine, np.resize(draw.permutation(size), mine.size))
    return found


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

    def nearest(self, query: Int8[np.ndarray, " size"], most: int) -> Int[np.ndarray, " most"]:
        """Indices of the sketches with the least mean squared difference, least first."""
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
        order: Int[np.ndarray, " most"] = chosen[np.argsort(distances, kind="stable")[:most]]
        return order


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
