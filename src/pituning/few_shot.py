"""Which examples are drawn for a few-shot task."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from pituning.example import Example


def draw(
    examples: Iterable[Example], limits: Mapping[str, int], class_of: Callable[[Example], str], seed: int
) -> tuple[Example, ...]:
    """The distinct examples of lowest rank, at most limits[class] a class, in the order of their ranks.

    The rank is SHA-256 of the seed and the example's digest: order and repeats do not count.
    """
    distinct = {example.digest: example for example in examples}
    taken: Counter[str] = Counter()
    drawn = []
    for digest in sorted(distinct, key=lambda d: hashlib.sha256(f"{seed}:{d}".encode()).hexdigest()):
        group = class_of(distinct[digest])
        if taken[group] < limits.get(group, 0):
            taken[group] += 1
            drawn.append(distinct[digest])
    return tuple(drawn)
