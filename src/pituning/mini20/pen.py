"""A pen that draws in the coordinates of a pose, and the colours that it draws with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import final

from PIL import Image, ImageDraw

from pituning.mini20.definition import PIXELS

Color = tuple[int, int, int]
Point = tuple[float, float]

FINER = 4
"""Drawn this much larger, then averaged: smooth edges."""


@final
@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours of a picture: what lies behind, the thing, its parts, its outlines and small marks."""

    ground: Color
    body: Color
    part: Color
    trim: Color


@final
@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a drawing of about -1..1 by -1..1 lies: its centre and half side in half pictures, radians."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False


@final
class Pen:
    """Draws in the coordinates of a pose (y points down) on a transparent sheet."""

    def __init__(self, pose: Pose, ground: Color | None = None) -> None:
        side = PIXELS * FINER
        self.sheet = Image.new("RGBA", (side, side), (0, 0, 0, 0) if ground is None else (*ground, 255))
        self._draw = ImageDraw.Draw(self.sheet)
        self.unit = pose.scale * side / 2
        self._a, self._b = math.cos(pose.angle) * self.unit, math.sin(pose.angle) * self.unit
        self._flip = -1 if pose.mirrored else 1
        self._x, self._y = (1 + pose.x) * side / 2, (1 + pose.y) * side / 2

    def at(self, x: float, y: float) -> Point:
        """Pixels on the sheet."""
        x *= self._flip
        return self._x + self._a * x - self._b * y, self._y + self._b * x + self._a * y

    def polygon(self, points: Sequence[Point], fill: Color, edge: Color | None = None) -> None:
        """A filled outline."""
        where = [self.at(*point) for point in points]
        self._draw.polygon(where, fill=fill)
        if edge is not None:
            self._draw.line([*where, where[0]], fill=edge, width=max(3, round(0.03 * self.unit)))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, edge: Color | None = None) -> None:
        """A rectangle by its corners."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, edge)

    def line(self, points: Sequence[Point], fill: Color, width: float) -> None:
        """A polyline with round ends and joints."""
        where, pixels = [self.at(*point) for point in points], max(2, round(width * self.unit))
        self._draw.line(where, fill=fill, width=pixels, joint="curve")
        if pixels > 2 * FINER:
            for x, y in (where[0], where[-1]):
                self._draw.ellipse(
                    (x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=fill
                )

    def dot(self, x: float, y: float, r: float, fill: Color | None, edge: Color | None = None) -> None:
        """A disc, or a ring where there is only an edge."""
        (x, y), r = self.at(x, y), r * self.unit
        width = max(3, round(0.03 * self.unit)) if edge is not None else 0
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=edge, width=width)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color, edge: Color | None = None) -> None:
        """An ellipse along the axes of the pose."""
        turns = [2 * math.pi * step / 20 for step in range(20)]
        self.polygon([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns], fill, edge)

    def layer(self) -> Image.Image:
        """The sheet in the size of a picture, still transparent where nothing was drawn."""
        return self.sheet.convert("RGBa").reduce(FINER).convert("RGBA")


def polar(r: float, turn: float, x: float = 0.0, y: float = 0.0) -> Point:
    """The point at distance r from (x, y), `turn` in radians."""
    return x + r * math.cos(turn), y + r * math.sin(turn)


def scattered(rng: Random, count: int, reach: float) -> list[Point]:
    """Points in a disc, about evenly spread."""
    start = rng.uniform(0, 2 * math.pi)
    return [
        polar(reach * math.sqrt((n + rng.random()) / count), start + 2.4 * n + rng.uniform(-0.3, 0.3))
        for n in range(count)
    ]
