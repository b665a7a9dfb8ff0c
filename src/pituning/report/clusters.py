"""Tasks that belong together: average linkage on 1 - similarity, drawn as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from pituning.report.curves import ticks

ROW, TREE, CHARACTER = 24, 420, 7.4  # pixels: a leaf's height, the tree's width, a letter's width


@dataclass(frozen=True, eq=False)
class Clusters:
    """Rows of a similarity matrix, grouped.

    Attributes:
        groups: the rows of each cluster; side by side they are the order of the heat map.
        merges: one row a merge, as scipy's `linkage` has it.
        cut: the distance at which the tree is cut into the groups.
    """

    groups: list[list[int]]
    merges: NDArray[np.float64]
    cut: float

    @property
    def order(self) -> list[int]:
        """All rows, alike ones side by side."""
        return [row for group in self.groups for row in group]


def clustered(similarity: Sequence[Sequence[float]]) -> Clusters:
    """Cut where two successive merges lie farthest apart, into at most half as many clusters as tasks."""
    distance = np.clip(1 - np.asarray(similarity, dtype=float), 0, None)
    size = len(distance)
    if size < 2:
        return Clusters([[row] for row in range(size)], np.zeros((0, 4)), 0.0)
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    merges = linkage(condensed, "average", optimal_ordering=True)
    heights = merges[:, 2]
    first = max((size - 1) // 2 - 1, 0)  # merges before this one leave too many clusters
    gaps = np.diff(heights[first:])
    best = first + int(gaps.argmax()) if gaps.size and gaps.max() > 1e-9 else size - 2
    cut = float(heights[best : best + 2].mean())
    labels = fcluster(merges, cut, "distance")
    groups: dict[int, list[int]] = {}
    for row in leaves_list(merges).tolist():
        groups.setdefault(int(labels[row]), []).append(row)
    return Clusters(list(groups.values()), merges, cut)


def tree_figure(names: Sequence[str], clusters: Clusters) -> str:
    """The tree as SVG: leaves on the left, merges to the right at the similarity where they happen."""
    if len(names) < 2:
        return ""
    left = 16 + CHARACTER * max(map(len, names))
    low, high = float(clusters.merges[0, 2]), float(clusters.merges[-1, 2])
    low -= 0.15 * (high - low or 0.1)

    def across(distance: float) -> float:
        return left + TREE * (distance - low) / (high - low)

    places = {row: (left, ROW * (index + 0.5)) for index, row in enumerate(clusters.order)}
    drawn = []
    for index, (one, two, height, _) in enumerate(clusters.merges.tolist()):
        (x1, y1), (x2, y2), x = places[int(one)], places[int(two)], across(height)
        drawn.append(
            f'<path class="branch" d="M{x1:.1f} {y1:.1f}H{x:.1f}V{y2:.1f}H{x2:.1f}">'
            f"<title>merged at similarity {1 - height:.3f}</title></path>"
        )
        places[len(names) + index] = (x, (y1 + y2) / 2)
    bottom, start = ROW * len(names), 0
    for number, group in enumerate(clusters.groups):
        if number % 2:
            drawn.insert(
                0,
                f'<rect class="band" x="0" y="{ROW * start}" width="{left + TREE + 20:.0f}" '
                f'height="{ROW * len(group)}"/>',
            )
        start += len(group)
    for row in clusters.order:
        y = places[row][1]
        drawn.append(f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" class="end">{escape(names[row])}</text>')
    if len(clusters.groups) > 1:
        x = across(clusters.cut)
        drawn.append(f'<path class="cut" d="M{x:.1f} 0V{bottom}"/>')
    for value in ticks(1 - high, 1 - low):
        if 1 - high <= value <= 1 - low:
            x = across(1 - value)
            drawn.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
            drawn.append(f'<text x="{x:.1f}" y="{bottom + 19}" class="middle small">{value:g}</text>')
    width = left + TREE + 20
    return (
        f'<svg class="tree" viewBox="0 0 {width:.0f} {bottom + 26}" width="{width:.0f}" role="img" '
        f'aria-label="Tree of the tasks; the clusters are listed beside it">{"".join(drawn)}</svg>'
    )
