"""Drawn families whose classes differ in small parts: planes, cars, flowers and dishes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import final

from pituning.mini20.pen import Look, Pen, polar, scattered


@final
@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane from above: how far its wing tips lie back, its span, and where engines hang."""

    sweep: float
    span: float = 0.9
    root: float = 0.3
    tip: float = 0.12
    engines: tuple[float, ...] = ()
    propellers: bool = False
    tail: float = 0.34
    extra: str = ""


PLANES = {
    "glider": Plane(sweep=0.0, span=1.0, root=0.16, tip=0.08, tail=0.26),
    "propeller plane": Plane(sweep=0.0, root=0.26, tip=0.2, extra="nose"),
    "twin propeller": Plane(sweep=0.0, root=0.26, tip=0.2, engines=(0.4,), propellers=True),
    "twin jet": Plane(sweep=0.38, engines=(0.36,)),
    "jumbo jet": Plane(sweep=0.38, engines=(0.3, 0.6)),
    "tail jet": Plane(sweep=0.38, extra="rear"),
    "delta jet": Plane(sweep=0.55, span=0.7, root=0.85, tip=0.06, tail=0.0),
    "canard jet": Plane(sweep=0.55, span=0.7, root=0.75, tip=0.06, tail=0.0, extra="canard"),
    "twin boom": Plane(sweep=0.05, root=0.24, tip=0.18, tail=0.42, extra="booms"),
}


def draw_plane(pen: Pen, name: str, look: Look, rng: Random) -> None:
    """One of `PLANES`, nose up, its proportions a little changed."""
    plane = PLANES[name]
    span, sweep = plane.span * rng.uniform(0.88, 1.08), plane.sweep + rng.uniform(-0.06, 0.06)
    wide, front = rng.uniform(0.09, 0.15), rng.uniform(-0.28, -0.12)
    if plane.extra == "canard" or not plane.tail:
        front -= 0.12
    for side in (-1, 1):
        for x in plane.engines:
            y = front + sweep * x / span
            pen.oval(side * x, y, 0.075, 0.16, look.part)
            if plane.propellers:
                pen.line([(side * x - 0.15, y - 0.16), (side * x + 0.15, y - 0.16)], look.body, 0.05)
        wing = [(0, front), (side * span, front + sweep), (side * span, front + sweep + plane.tip)]
        pen.polygon([*wing, (0, front + plane.root)], look.body)
        _tail_and_extras(pen, plane, side, sweep, look)
    end = 0.55 if plane.extra == "booms" else 0.9
    nose = [(0, -0.92), (wide * 0.75, -0.75), (wide, -0.4), (wide * 0.9, 0.3), (wide * 0.3, end)]
    pen.polygon([*nose, *((-x, y) for x, y in reversed(nose))], look.body)
    pen.oval(0, -0.68, wide * 0.5, 0.09, look.part)
    if plane.extra == "nose":
        pen.line([(-0.24, -0.92), (0.24, -0.92)], look.body, 0.06)


def _tail_and_extras(pen: Pen, plane: Plane, side: int, sweep: float, look: Look) -> None:
    if plane.tail:
        end = side * plane.tail
        pen.polygon([(0, 0.68), (end, 0.72 + sweep / 3), (end, 0.84 + sweep / 3), (0, 0.88)], look.body)
    if plane.extra == "rear":
        pen.oval(side * 0.2, 0.42, 0.075, 0.17, look.part)
    if plane.extra == "booms":
        pen.line([(side * 0.36, -0.2), (side * 0.36, 0.82)], look.body, 0.09)
    if plane.extra == "canard":
        pen.polygon([(0, -0.66), (side * 0.34, -0.5), (side * 0.34, -0.43), (0, -0.48)], look.body)


@final
@dataclass(frozen=True, kw_only=True)
class Car:
    """A car from the side, facing right: the x of the cabin's four corners from the rear, its panes."""

    cabin: tuple[float, float, float, float]
    roof: float = 0.42
    panes: int = 2
    half: float = 0.95
    extra: str = ""


CARS = {
    "sedan": Car(cabin=(-0.62, -0.38, 0.16, 0.46)),
    "coupe": Car(cabin=(-0.8, -0.2, 0.1, 0.46), roof=0.36, panes=1),
    "sports car": Car(cabin=(-0.75, -0.2, 0.1, 0.5), roof=0.34, panes=1, extra="spoiler"),
    "hatchback": Car(cabin=(-0.74, -0.6, 0.12, 0.42), half=0.76),
    "estate": Car(cabin=(-0.95, -0.86, 0.16, 0.46), panes=3),
    "limousine": Car(cabin=(-0.68, -0.5, 0.34, 0.56), roof=0.36, panes=4, half=1.05),
    "pickup": Car(cabin=(-0.12, -0.06, 0.26, 0.5), panes=1, extra="bed"),
    "van": Car(cabin=(-0.95, -0.93, 0.55, 0.86), roof=0.6, panes=1, extra="blind"),
    "minibus": Car(cabin=(-0.95, -0.93, 0.55, 0.86), roof=0.6, panes=4),
    "jeep": Car(cabin=(-0.72, -0.7, 0.14, 0.24), roof=0.48, panes=2, half=0.76, extra="spare"),
    "convertible": Car(cabin=(-0.4, -0.4, 0.2, 0.46), panes=0, extra="open"),
}


def draw_car(pen: Pen, name: str, look: Look, rng: Random) -> None:
    """One of `CARS` on its wheels, its proportions a little changed."""
    car, belt = CARS[name], rng.uniform(-0.04, 0.06)
    x0, x1, x2, x3 = (x + rng.uniform(-0.04, 0.04) for x in car.cabin)
    top, half = belt - car.roof * rng.uniform(0.88, 1.12), car.half * rng.uniform(0.95, 1.05)
    rear = min(-half, x0)
    hull = [(rear, belt), (x3, belt), (half, belt + 0.1), (half, 0.4), (rear, 0.4)]
    pen.polygon(hull, look.body)
    if car.extra != "open":
        pen.polygon([(x0, belt + 0.02), (x1, top), (x2, top), (x3, belt + 0.02)], look.body)
    for pane in range(car.panes):
        shares = (0.72, 1.0) if car.extra == "blind" else (pane / car.panes, (pane + 1) / car.panes)
        low0, low1 = (x0 + 0.08 + (x3 - x0 - 0.16) * share for share in shares)
        high0, high1 = (x1 + 0.05 + (x2 - x1 - 0.1) * share for share in shares)
        high = [(high0 + 0.02, top + 0.07), (high1 - 0.02, top + 0.07)]
        pen.polygon([(low0 + 0.02, belt), *high, (low1 - 0.02, belt)], look.part)
    _car_extras(pen, car, rear, belt, x3, look)
    radius = rng.uniform(0.17, 0.22) + (0.05 if car.extra == "spare" else 0)
    for x in (rear + 0.38, half - 0.38):
        pen.dot(x, 0.42, radius, look.trim)
        pen.dot(x, 0.42, radius * rng.uniform(0.35, 0.6), look.part)


def _car_extras(pen: Pen, car: Car, rear: float, belt: float, front: float, look: Look) -> None:
    if car.extra == "spoiler":
        pen.line([(rear + 0.12, belt), (rear + 0.06, belt - 0.16)], look.body, 0.05)
        pen.line([(rear - 0.06, belt - 0.18), (rear + 0.22, belt - 0.16)], look.body, 0.07)
    if car.extra == "bed":
        pen.box(rear + 0.07, belt - 0.01, -0.2, belt + 0.12, look.trim)
    if car.extra == "spare":
        pen.box(rear - 0.1, belt - 0.06, rear, belt + 0.3, look.trim)
    if car.extra == "open":
        pen.line([(front - 0.02, belt), (front - 0.24, belt - 0.3)], look.part, 0.06)
        for x in (-0.3, 0.02):
            pen.line([(x, belt), (x - 0.04, belt - 0.16)], look.trim, 0.11)


@final
@dataclass(frozen=True, kw_only=True)
class Flower:
    """A flower from above: petals by number, half width and shape; the centre's radius; what is special."""

    petals: int
    width: float
    shape: str = "round"
    centre: float = 0.2
    extra: str = ""


FLOWERS = {
    "poppy": Flower(petals=4, width=0.5, centre=0.22),
    "buttercup": Flower(petals=5, width=0.38, centre=0.16),
    "primrose": Flower(petals=5, width=0.38, shape="notched", centre=0.16),
    "lily": Flower(petals=6, width=0.24, shape="pointed", centre=0.1),
    "periwinkle": Flower(petals=5, width=0.3, shape="skewed", centre=0.12),
    "anemone": Flower(petals=8, width=0.26, centre=0.2, extra="ring"),
    "clematis": Flower(petals=8, width=0.2, shape="pointed", centre=0.14),
    "daisy": Flower(petals=14, width=0.1, centre=0.24),
    "sunflower": Flower(petals=16, width=0.12, shape="pointed", centre=0.46),
    "dahlia": Flower(petals=9, width=0.24, centre=0.12, extra="double"),
}

# A petal from its foot at r = 0 to its end at r = 1: (r, share of the half width) along one side.
PETALS = {
    "round": ((0.0, 0.25), (0.4, 0.8), (0.7, 1.0), (0.92, 0.7), (1.0, 0.0)),
    "pointed": ((0.0, 0.2), (0.35, 0.95), (0.5, 1.0), (0.75, 0.6), (1.0, 0.0)),
    "notched": ((0.0, 0.2), (0.5, 0.85), (0.8, 1.0), (1.0, 0.6), (0.78, 0.0)),
    "skewed": ((0.0, 0.3), (0.4, 0.9), (0.7, 1.0), (0.95, 1.0), (1.0, 0.9)),
}


def draw_flower(pen: Pen, name: str, look: Look, rng: Random) -> None:
    """One of `FLOWERS`, on a stem or not."""
    flower, start, spread = FLOWERS[name], rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.12)
    if rng.random() < 0.5:
        pen.line([(0, 0), polar(1.6, rng.uniform(0, 2 * math.pi))], look.trim, 0.07)
    rings = (1.0, 0.62) if flower.extra == "double" else (1.0,)
    for ring, size in enumerate(rings):
        for petal in range(flower.petals):
            turn = start + 2 * math.pi * (petal + ring / 2) / flower.petals + rng.uniform(-0.07, 0.07)
            _petal(pen, flower, turn, (0.95 * size * rng.uniform(0.9, 1.05), size * spread), look)
    pen.dot(0, 0, flower.centre * rng.uniform(0.88, 1.12), look.part)
    if flower.extra == "ring":
        for mark in range(12):
            pen.dot(*polar(0.34, start + mark * math.pi / 6), 0.05, look.trim)


def _petal(pen: Pen, flower: Flower, turn: float, size: tuple[float, float], look: Look) -> None:
    side = [(r * size[0], share * flower.width * size[1]) for r, share in PETALS[flower.shape]]
    other = [(r, -0.1 * across if flower.shape == "skewed" else -across) for r, across in side]
    cos, sin = math.cos(turn), math.sin(turn)
    outline = [(r * cos - across * sin, r * sin + across * cos) for r, across in [*side, *reversed(other)]]
    pen.polygon(outline, look.body, look.trim)


def draw_dish(pen: Pen, name: str, look: Look, rng: Random) -> None:
    """One of `DISHES` on a plate, with or without a garnish."""
    plate = rng.choice(("round", "round", "square", "oval"))
    if plate == "square":
        pen.box(-0.88, -0.88, 0.88, 0.88, look.body, look.trim)
    else:
        pen.oval(0, 0, 1, 1 if plate == "round" else 0.86, look.body, look.trim)
    if rng.random() < 0.4:
        pen.dot(*polar(0.84, rng.uniform(0, 2 * math.pi)), 0.09, look.trim)
    DISHES[name](pen, look, rng)


def _pizza(pen: Pen, look: Look, rng: Random) -> None:
    pen.dot(0, 0, 0.72, look.part, look.trim)
    for x, y in scattered(rng, rng.randint(5, 8), 0.56):
        pen.dot(x, y, rng.uniform(0.09, 0.13), look.trim)


def _tart(pen: Pen, look: Look, rng: Random) -> None:
    pen.dot(0, 0, 0.72, look.part, look.trim)
    pen.dot(0, 0, 0.58, None, look.trim)
    for turn in range(3):
        where = turn * math.pi / 3 + rng.uniform(-0.1, 0.1)
        pen.line([polar(0.7, where), polar(-0.7, where)], look.trim, 0.04)


def _fried_egg(pen: Pen, look: Look, rng: Random) -> None:
    start, steps = rng.uniform(0, 6), range(14)
    edge = [
        polar(0.58 + 0.1 * math.sin(3 * n + start) + rng.uniform(-0.05, 0.05), n * math.pi / 7) for n in steps
    ]
    pen.polygon(edge, look.part)
    pen.dot(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), rng.uniform(0.2, 0.27), look.trim)


def _sushi(pen: Pen, look: Look, rng: Random) -> None:
    for n in range(rng.randint(3, 5)):
        x, y = polar(0.45, n * 1.6 + rng.uniform(-0.15, 0.15))
        pen.dot(x, y, 0.22, look.trim)
        pen.dot(x, y, 0.16, look.part)
        pen.dot(x, y, 0.06, look.trim)


def _salad(pen: Pen, look: Look, rng: Random) -> None:
    for x, y in scattered(rng, rng.randint(14, 20), 0.6):
        turn, r = rng.uniform(0, 2 * math.pi), rng.uniform(0.14, 0.22)
        leaf = [polar(r, turn, x, y), polar(r / 2, turn + 1.6, x, y), polar(r, turn + 3.14, x, y)]
        pen.polygon([*leaf, polar(r / 2, turn - 1.6, x, y)], look.part if rng.random() < 0.75 else look.trim)


def _peas(pen: Pen, look: Look, rng: Random) -> None:
    for x, y in scattered(rng, rng.randint(26, 36), 0.62):
        pen.dot(x, y, rng.uniform(0.065, 0.085), look.part if rng.random() < 0.75 else look.trim)


def _spaghetti(pen: Pen, look: Look, rng: Random) -> None:
    for x, y in scattered(rng, rng.randint(9, 13), 0.4):
        start, bend, r = rng.uniform(0, 6), rng.uniform(1.5, 4), rng.uniform(0.16, 0.3)
        strand = [polar(r, start + bend * step / 6, x, y) for step in range(7)]
        pen.line(strand, look.part if rng.random() < 0.75 else look.trim, 0.06)


def _fries(pen: Pen, look: Look, rng: Random) -> None:
    slant = rng.uniform(0, 3)
    for x, y in scattered(rng, rng.randint(9, 13), 0.42):
        turn, r = slant + rng.uniform(-0.7, 0.7), rng.uniform(0.2, 0.3)
        ends = [polar(r, turn, x, y), polar(-r, turn, x, y)]
        pen.line(ends, look.part if rng.random() < 0.75 else look.trim, 0.09)


def _doughnut(pen: Pen, look: Look, rng: Random) -> None:
    pen.dot(0, 0, 0.68, look.part, look.trim)
    for n in range(rng.randint(7, 11)):
        x, y = polar(rng.uniform(0.38, 0.58), n * 0.75)
        turn = rng.uniform(0, 3)
        pen.line([polar(0.06, turn, x, y), polar(-0.06, turn, x, y)], look.trim, 0.05)
    pen.dot(0, 0, rng.uniform(0.2, 0.28), look.body, look.trim)


def _dumplings(pen: Pen, look: Look, rng: Random) -> None:
    for n in range(rng.randint(3, 5)):
        x, y = polar(0.42, n * 1.6 + rng.uniform(-0.15, 0.15))
        start = rng.uniform(0, 2 * math.pi)
        moon = [polar(0.27, start + step * math.pi / 8, x, y) for step in range(9)]
        pen.polygon(moon, look.part, look.trim)


DISHES: dict[str, Callable[[Pen, Look, Random], None]] = {
    "pizza": _pizza,
    "tart": _tart,
    "fried egg": _fried_egg,
    "sushi": _sushi,
    "salad": _salad,
    "peas": _peas,
    "spaghetti": _spaghetti,
    "fries": _fries,
    "doughnut": _doughnut,
    "dumplings": _dumplings,
}
