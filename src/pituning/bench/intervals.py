"""Paired differences over tasks and seeds, with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
FEWEST = 8  # tasks for an interval: of fewer, the bootstrap's are too narrow


@dataclass(frozen=True)
class Difference:
    """A mean difference in score, its 95 % interval, and on how many of the tasks it is above or below 0.

    The interval's ends are None where there are fewer than `FEWEST` tasks.
    """

    mean: float
    low: float | None
    high: float | None
    better: int
    worse: int
    tasks: int


def paired_difference(
    one: Mapping[tuple[str, int], float], other: Mapping[tuple[str, int], float], *, seed: int = 0
) -> Difference:
    """Of the mean over tasks of `one` minus `other`, where both have a score for a (task, seed).

    The interval is the bootstrap's (percentile): tasks are drawn with replacement, then seeds within each.

    Raises:
        ValueError: no task and seed is in both.
    """
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise ValueError("no task and seed in common")
    by_task: dict[str, list[float]] = {}
    for task, run in shared:
        by_task.setdefault(task, []).append(one[task, run] - other[task, run])
    means = np.array([np.mean(row) for row in by_task.values()]).round(9)  # what cancels out is no difference
    low, high = _interval(list(by_task.values()), seed) if len(by_task) >= FEWEST else (None, None)
    better, worse = int((means > 0).sum()), int((means < 0).sum())
    return Difference(float(means.mean()), low, high, better, worse, len(means))


def _interval(rows: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    # For each resample and task: the mean of so many seeds, drawn with replacement.
    drawn = np.stack(
        [np.asarray(row)[rng.integers(len(row), size=(RESAMPLES, len(row)))].mean(axis=1) for row in rows]
    )
    picked = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
    low, high = np.percentile(drawn[picked, np.arange(RESAMPLES)[:, None]].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
