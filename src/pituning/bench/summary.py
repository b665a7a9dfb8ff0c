"""The results of all methods, tasks and seeds, taken together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from pituning.bench.intervals import paired_difference
from pituning.metrics import METRICS

Run = Mapping[str, Any]


def summary(runs: Sequence[Run], reference: str = "expert") -> dict[str, dict[str, Any]]:
    """Method -> what it scored, and how far that is from the method `reference` where both have scores.

    Args:
        runs: each with `task`, `seed`, `metric`, `method`, and either `score`, `seconds` and `before` or the
            reason why it has none, `refused`.

    Returns:
        The number of `runs` with a score; `mean`, over tasks, as a part of the most that the metrics can
        reach; `seconds`, the median from nothing to what was scored; `difference`, as `paired_difference` has
        it; `refused`, the reasons. What there is none of is left out.
    """
    other = _scores(runs, reference)
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        mine, scores = [run for run in runs if run["method"] == method], _scores(runs, method)
        reasons = [run["refused"] for run in mine if "refused" in run]
        found[method] = {"runs": len(scores)} | ({"refused": reasons} if reasons else {})
        if scores:
            tasks = {task for task, _ in scores}
            by_task = [[value for (name, _), value in scores.items() if name == task] for task in tasks]
            found[method]["mean"] = mean(map(mean, by_task))
            found[method]["seconds"] = median(
                run["seconds"] + run["before"] for run in mine if "score" in run
            )
        if scores.keys() & other.keys() and method != reference:
            found[method]["difference"] = vars(paired_difference(scores, other))
    return found


def _scores(runs: Sequence[Run], method: str) -> dict[tuple[str, int], float]:
    """(task, seed) -> the score as a part of the most that the metric can reach."""
    mine = [run for run in runs if run["method"] == method and "score" in run]
    return {(run["task"], run["seed"]): run["score"] / METRICS[run["metric"]].most for run in mine}
