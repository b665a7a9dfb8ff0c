"""How a pool is read: the whole of a small one, the sketches of a big one."""

from __future__ import annotations

import os
from contextlib import suppress

from pituning.neighborhood.base import Neighborhood
from pituning.neighborhood.exact import ExactNeighborhood
from pituning.neighborhood.sketched import SketchedNeighborhood
from pituning.pool import Pool

# Up to so many experts, and so many bytes of files, all are read, kept in memory and compared exactly.
EXACT, HELD = 500, 4 << 30


def neighborhood_of(pool: Pool, *, exact: int = EXACT, held: int = HELD) -> Neighborhood:
    """Read the pool, or its sketches where it holds more than `exact` experts or `held` bytes."""
    small = len(pool) <= exact and _size(pool) <= held
    return ExactNeighborhood.of(pool) if small else SketchedNeighborhood.of(pool)


def _size(pool: Pool) -> int:
    """Bytes of the experts' files."""
    found = 0
    for name in pool:
        with suppress(OSError):  # another process replaces it
            found += sum(file.stat().st_size for file in os.scandir(pool.path / name))
    return found
