"""Surfaces that fill the picture: textures, and patches of land seen from above."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

from pituning.mini20.pen import Color, Look, Pen, polar

REACH = 1.45
"""Half a side of what has to be covered in the pen's coordinates: a turned square's corners, nearly."""

PERIODS = (0.22, 0.42)
"""Of a texture, in half pictures: 7 to 13 pixels. Finer ones drown in the noise at 64 pixels."""

Surface = Callable[[Pen, Look, Random, float], None]


def _steps(period: float, rng: Random, reach: float = REACH) -> Iterator[float]:
    """Places at a distance of `period`, from a random start."""
    place = -reach - rng.random() * period
    while place < reach:
        yield place
        place += period


def _cells(period: float, rng: Random) -> Iterator[tuple[int, int, float, float]]:
    columns, rows = list(_steps(period, rng)), list(_steps(period, rng))
    for row, y in enumerate(rows):
        for column, x in enumerate(columns):
            yield row, column, x, y


def _banded(pen: Pen, look: Look, rng: Random, period: float) -> None:
    share = rng.uniform(0.4, 0.6)
    for y in _steps(period, rng):
        pen.box(-REACH, y, REACH, y + period * share, look.body)


def _dotted(pen: Pen, look: Look, rng: Random, period: float) -> None:
    radius, shift = rng.uniform(0.24, 0.34) * period, rng.choice((0.0, 0.5))
    for row, _, x, y in _cells(period, rng):
        pen.dot(x + row % 2 * shift * period, y, radius, look.body)


def _speckled(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for _, _, x, y in _cells(period, rng):
        slip = (rng.uniform(-0.7, 0.7) * period for _ in range(2))
        pen.dot(x + next(slip), y + next(slip), rng.uniform(0.15, 0.38) * period, look.body)


def _bubbly(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for _, _, x, y in _cells(period * 1.2, rng):
        slip = (rng.uniform(-0.5, 0.5) * period for _ in range(2))
        pen.dot(x + next(slip), y + next(slip), rng.uniform(0.3, 0.7) * period, None, look.body)


def _scaly(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for row, y in enumerate(_steps(period / 2, rng)):
        for x in _steps(period, Random(0)):
            pen.dot(x + row % 2 * period / 2, y, 0.58 * period, look.ground, look.body)


def _checked(pen: Pen, look: Look, rng: Random, period: float) -> None:
    side = period * 0.75
    for row, column, x, y in _cells(side, rng):
        if (row + column) % 2:
            pen.box(x, y, x + side, y + side, look.body)


def _grid(pen: Pen, look: Look, rng: Random, period: float) -> None:
    width = period * rng.uniform(0.16, 0.26)
    for place in _steps(period, rng):
        pen.line([(-REACH, place), (REACH, place)], look.body, width)
        pen.line([(place, -REACH), (place, REACH)], look.body, width)


def _bricked(pen: Pen, look: Look, rng: Random, period: float) -> None:
    width, high = period * rng.uniform(0.14, 0.22), period * 0.8
    for row, y in enumerate(_steps(high, rng)):
        pen.line([(-REACH, y), (REACH, y)], look.body, width)
        for x in _steps(2 * high, Random(0)):
            joint = x + row % 2 * high
            pen.line([(joint, y), (joint, y + high)], look.body, width)


def _zigzag(pen: Pen, look: Look, rng: Random, period: float) -> None:
    height, width = period * rng.uniform(0.5, 0.8), period * rng.uniform(0.28, 0.4)
    columns = list(_steps(period * 0.6, rng))
    for y in _steps(period * 1.15, rng):
        pen.line([(x, y + height * (n % 2)) for n, x in enumerate(columns)], look.body, width)


def _woven(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for row, column, x, y in _cells(period, rng):
        for strand in (0.08, 0.56):
            low, high = strand * period, (strand + 0.34) * period
            if (row + column) % 2:
                pen.box(x, y + low, x + period, y + high, look.body)
            else:
                pen.box(x + low, y, x + high, y + period, look.body)


def _cracked(pen: Pen, look: Look, rng: Random, period: float) -> None:
    side, width = period * 1.25, period * rng.uniform(0.1, 0.18)
    places = list(_steps(side, rng))
    knots = [[(x + _slip(rng, side), y + _slip(rng, side)) for x in places] for y in places]
    for row, line in enumerate(knots[1:], start=1):
        for column, knot in enumerate(line[1:], start=1):
            for other in (line[column - 1], knots[row - 1][column]):
                if rng.random() < 0.85:
                    pen.line([knot, other], look.body, width)


def _slip(rng: Random, side: float) -> float:
    return rng.uniform(-0.42, 0.42) * side


def _honeycombed(pen: Pen, look: Look, rng: Random, period: float) -> None:
    r = period * 0.62
    for row, y in enumerate(_steps(1.5 * r, rng)):
        for x in _steps(math.sqrt(3) * r, Random(0)):
            middle = x + row % 2 * math.sqrt(3) / 2 * r
            corners = [polar(r, math.pi / 6 + turn * math.pi / 3, middle, y) for turn in range(4)]
            pen.line(corners, look.body, period * 0.13)


TEXTURES: dict[str, Surface] = {
    "banded": _banded,
    "bricked": _bricked,
    "bubbly": _bubbly,
    "checked": _checked,
    "cracked": _cracked,
    "dotted": _dotted,
    "grid": _grid,
    "honeycombed": _honeycombed,
    "scaly": _scaly,
    "speckled": _speckled,
    "woven": _woven,
    "zigzag": _zigzag,
}


def draw_texture(pen: Pen, name: str, look: Look, rng: Random) -> None:
    """One of `TEXTURES`, of any period in `PERIODS`."""
    TEXTURES[name](pen, look, rng, rng.uniform(*PERIODS))


LandColors = dict[str, Color]


def _trees(pen: Pen, land: LandColors, rng: Random, count: int, size: tuple[float, float]) -> None:
    for _ in range(count):
        x, y, r = rng.uniform(-1.2, 1.2), rng.uniform(-1.2, 1.2), rng.uniform(*size)
        pen.dot(x, y, r, land["shadow"])
        pen.dot(x - r * 0.2, y - r * 0.2, r * 0.75, land["tree"])


def _forest(pen: Pen, land: LandColors, rng: Random) -> None:
    _trees(pen, land, rng, 130, (0.1, 0.18))


def _scrub(pen: Pen, land: LandColors, rng: Random) -> None:
    _trees(pen, land, rng, rng.randint(22, 40), (0.05, 0.13))


def _orchard(pen: Pen, land: LandColors, rng: Random) -> None:
    side, size = rng.uniform(0.26, 0.36), rng.uniform(0.07, 0.1)
    for _, _, x, y in _cells(side, rng):
        pen.dot(
            x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03), size, land["tree"], land["shadow"]
        )


def _crop_rows(pen: Pen, land: LandColors, rng: Random) -> None:
    period = rng.uniform(0.14, 0.26)
    for y in _steps(period, rng):
        pen.line([(-REACH, y), (REACH, y + rng.uniform(-0.03, 0.03))], land["soil"], period * 0.5)


def _pasture(pen: Pen, land: LandColors, rng: Random) -> None:
    pen.box(rng.uniform(-0.4, 0.4), -REACH, REACH, rng.uniform(-0.4, 0.4), land["soil"])
    for _ in range(rng.randint(2, 4)):
        start, end = rng.uniform(-1, 1), rng.uniform(-1, 1)
        ends = [(-REACH, start), (REACH, end)] if rng.random() < 0.5 else [(start, -REACH), (end, REACH)]
        pen.line(ends, land["tree"], 0.05)


def _river(pen: Pen, land: LandColors, rng: Random) -> None:
    start, bend, middle = rng.uniform(0, 6), rng.uniform(0.15, 0.35), rng.uniform(-0.3, 0.3)
    steps = [n / 6 - REACH for n in range(18)]
    course = [(x, middle + bend * math.sin(start + x * 2.6)) for x in steps]
    pen.line(course, land["water"], rng.uniform(0.14, 0.3))


def _highway(pen: Pen, land: LandColors, rng: Random) -> None:
    middle, width, bow = rng.uniform(-0.4, 0.4), rng.uniform(0.16, 0.28), rng.uniform(-0.25, 0.25)
    course = [(n / 4 - 1.5, middle + bow * (n / 4 - 1.5) ** 2) for n in range(13)]
    pen.line(course, land["road"], width)
    for (x0, y0), (x1, y1) in pairwise(course):
        pen.line([(x0, y0), ((x0 + x1) / 2, (y0 + y1) / 2)], land["roof"], 0.035)


def _lake(pen: Pen, land: LandColors, rng: Random) -> None:
    x, y, r, start = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.4, 0.7), rng.uniform(0, 6)
    wide = [
        r * (1 + 0.2 * math.sin(2 * n * math.pi / 12 + start) + rng.uniform(-0.1, 0.1)) for n in range(24)
    ]
    pen.polygon([polar(size, n * math.pi / 12, x, y) for n, size in enumerate(wide)], land["water"])


def _houses(pen: Pen, land: LandColors, rng: Random) -> None:
    side = rng.uniform(0.5, 0.66)
    for _, _, x, y in _cells(side, rng):
        pen.line([(x, y), (x + side, y)], land["road"], 0.08)
        pen.line([(x, y), (x, y + side)], land["road"], 0.08)
        for column in (0.14, 0.58):
            for row in (0.14, 0.58):
                size = rng.uniform(0.22, 0.3) * side
                left, top = x + column * side, y + row * side
                if rng.random() < 0.85:
                    pen.box(left, top, left + size, top + size * rng.uniform(0.7, 1), land["roof"])


def _industrial(pen: Pen, land: LandColors, rng: Random) -> None:
    side = rng.uniform(0.8, 1.0)
    pen.box(-REACH, -REACH, REACH, REACH, land["soil"])
    for _, _, x, y in _cells(side, rng):
        pen.line([(x, y), (x + side, y)], land["road"], 0.1)
        wide, high = side * rng.uniform(0.5, 0.8), side * rng.uniform(0.4, 0.75)
        pen.box(x + 0.1, y + 0.1, x + 0.1 + wide, y + 0.1 + high, land["roof"], land["shadow"])


LANDS: dict[str, Callable[[Pen, LandColors, Random], None]] = {
    "crop rows": _crop_rows,
    "forest": _forest,
    "highway": _highway,
    "houses": _houses,
    "industrial area": _industrial,
    "lake": _lake,
    "orchard": _orchard,
    "pasture": _pasture,
    "river": _river,
    "scrub": _scrub,
}


def draw_land(pen: Pen, name: str, land: LandColors, rng: Random) -> None:
    """One of `LANDS`; a wood, a lone lane or nothing may lie in it too."""
    LANDS[name](pen, land, rng)
    if name not in ("forest", "scrub", "orchard") and rng.random() < 0.5:
        _trees(pen, land, rng, rng.randint(3, 9), (0.06, 0.14))
    if name not in ("highway", "houses") and rng.random() < 0.3:
        ends = [(-REACH, rng.uniform(-1, 1)), (REACH, rng.uniform(-1, 1))]
        pen.line(ends, land["road"], 0.06)
