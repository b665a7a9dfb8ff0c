"""Which experts of a pool may be neighbours of a task, and which of them are nearest."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pituning.neighborhood.exact import Neighborhood
from pituning.neighborhood.sketched import SketchedNeighborhood
from pituning.pool import Pool
from pituning.predict import Neighbor

__all__ = ["EXACT", "Neighborhood", "neighborhood_of", "tell_fewer"]

log = logging.getLogger(__name__)

EXACT = 500  # up to so many experts, all are read, and compared exactly


def neighborhood_of(pool: Pool, *, exact: int = EXACT) -> Neighborhood:
    """Read the pool, or its sketches where it holds more than `exact` experts."""
    return SketchedNeighborhood.of(pool) if len(list(pool)) > exact else Neighborhood.of(pool)


def tell_fewer(found: Sequence[Neighbor], k: int) -> None:
    """Say that there are fewer neighbours than asked for."""
    if len(found) < k:
        log.warning("k is %d, but %d of the pool's experts can be neighbours", k, len(found))
