"""How a pool is read: the whole of a small one, the sketches of a big one."""

from __future__ import annotations

from pituning.neighborhood.base import Neighborhood
from pituning.neighborhood.exact import ExactNeighborhood
from pituning.neighborhood.sketched import SketchedNeighborhood
from pituning.pool import Pool

EXACT = 500  # up to so many experts, all are read, and compared exactly


def neighborhood_of(pool: Pool, *, exact: int = EXACT) -> Neighborhood:
    """Read the pool, or its sketches where it holds more than `exact` experts."""
    return SketchedNeighborhood.of(pool) if len(pool) > exact else ExactNeighborhood.of(pool)
