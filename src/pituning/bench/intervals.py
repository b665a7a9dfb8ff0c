"""Paired differences over tasks and seeds, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A mean difference in score, its 95 % interval, and on how many of the tasks it is above or below 0."""

    mean: float
    low: float
    high: float
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
    rng = np.random.default_rng(seed)
    rows = list(by_task.values())
    means = np.array([np.mean(row) for row in rows])
    # For each resample and task: the mean of so many seeds, drawn with replacement.
    drawn = np.stack(
        [np.asarray(row)[rng.integers(len(row), size=(RESAMPLES, len(row)))].mean(axis=1) for row in rows]
    )
    picked = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
    totals = drawn[picked, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    low, high = np.percentile(totals, [2.5, 97.5])
    return Difference(
        float(means.mean()),
        float(low),
        float(high),
        int((means > 0).sum()),
        int((means < 0).sum()),
        len(rows),
    )
