"""The loss between three experts, as hexagons on a triangle whose edges are the straight paths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pituning.report.heatmap import scale, step
from pituning.report.numbers import numbers

SIDE = 5  # steps from corner to corner
RADIUS, MARGIN = 38, 62  # pixels; of a hexagon, and around the outermost middles
HALF = RADIUS * math.sqrt(3) / 2


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mixture of the corners.

    Attributes:
        weights: of the three corners, adding up to 1.
        loss: in nats.
        score: by the task's metric; None where it was not measured.
    """

    weights: tuple[float, float, float]
    loss: float
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Mixtures of three experts: the corners, and a grid of `SIDE` steps between them."""

    corners: tuple[str, str, str]
    points: Sequence[Point]


def grid() -> Iterator[tuple[float, float, float]]:
    """The weights of the grid's points, from the first corner row by row.

    Example:
        >>> [weights for weights in grid() if max(weights) == 1]
        [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    """
    for row in range(SIDE + 1):
        for third in range(row + 1):
            yield (SIDE - row) / SIDE, (row - third) / SIDE, third / SIDE


def plane_figure(plane: Plane) -> str:
    """The triangle, its scale, and the numbers as a table."""
    losses = [point.loss for point in plane.points if math.isfinite(point.loss)] or [0.0]
    low, high = min(losses), max(losses)
    cells = []
    for point in plane.points:
        x, y = _middle(point.weights)
        place = ", ".join(f"{n} {w:.1f}" for n, w in zip(plane.corners, point.weights, strict=True))
        told = f"{place}: loss {point.loss:.4f}"
        told += "" if point.score is None else f", score {point.score:.4f}"
        color = step(low + high - point.loss, low, high) if math.isfinite(point.loss) else "q0"
        shown = f'<text class="middle" x="{x:.1f}" y="{y + 4:.1f}">{point.loss:.2f}</text>'
        if point.score is not None:
            shown = (
                f'<text class="middle" x="{x:.1f}" y="{y - 3:.1f}">{point.loss:.2f}</text>'
                f'<text class="middle" x="{x:.1f}" y="{y + 13:.1f}">{100 * point.score:.0f} %</text>'
            )
        cells.append(f'<g class="cell {color}"><title>{escape(told)}</title>{_hexagon(x, y)}{shown}</g>')
    names = "".join(_corner(name, index) for index, name in enumerate(plane.corners))
    width, height = _size()
    label = escape(f"Loss of mixtures of {', '.join(plane.corners)}")
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}"'
    drawn = f'<svg class="plane" width="{width:.0f}" {box}>{names}{"".join(cells)}</svg>'
    return f"{drawn}{scale(high, low)}{_numbers(plane)}"


def _size() -> tuple[float, float]:
    return 2 * MARGIN + 2 * HALF * SIDE, 2 * MARGIN + 1.5 * RADIUS * SIDE


def _middle(weights: Sequence[float]) -> tuple[float, float]:
    """The first corner is on top, the second on the left, the third on the right."""
    row, third = SIDE * (1 - weights[0]), SIDE * weights[2]
    return MARGIN + HALF * (SIDE - row + 2 * third), MARGIN + 1.5 * RADIUS * row


def _hexagon(x: float, y: float) -> str:
    corners = (math.radians(60 * side + 30) for side in range(6))
    points = " ".join(f"{x + RADIUS * math.cos(a):.1f},{y + RADIUS * math.sin(a):.1f}" for a in corners)
    return f'<polygon points="{points}"/>'


def _corner(name: str, index: int) -> str:
    width, height = _size()
    x, y = ((width / 2, 14), (2, height - 6), (width - 2, height - 6))[index]
    side = ("middle", "", "end")[index]
    return f'<text class="{side} small" x="{x:.1f}" y="{y:.1f}">{escape(name)}</text>'


def _numbers(plane: Plane) -> str:
    rows = (
        [*(f"{weight:.1f}" for weight in point.weights), f"{point.loss:.4f}", _told(point.score)]
        for point in plane.points
    )
    return numbers((*plane.corners, "loss", "score"), rows)


def _told(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"
