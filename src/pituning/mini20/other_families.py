"""Pictures for pre-training with their words: families that none of the eight vision tasks has.

Textures, signs and things here are of other names and shapes than the tasks' classes. Signs are written in
the hands of the training split alone.

What overlaps with the tasks: the pen, the poses and those hands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import final

from PIL import Image

from pituning.mini20.letters import HANDS, Strokes, draw_strokes
from pituning.mini20.pen import Color, Look, Pen, Pose, polar

NAMED_COLORS: dict[str, Color] = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (45, 80, 200),
    "yellow": (235, 210, 60),
    "purple": (130, 60, 160),
    "orange": (235, 140, 45),
    "brown": (120, 80, 45),
    "pink": (240, 160, 190),
    "black": (30, 30, 30),
    "white": (240, 240, 240),
    "grey": (130, 130, 130),
}


@final
@dataclass(frozen=True, kw_only=True)
class Described:
    """A picture without noise, what it shows, and its attributes: colours and manner."""

    image: Image.Image
    name: str
    color: str
    ground: str
    manner: str


SIGNS: dict[str, Strokes] = {
    "arrow": (((0.0, 0.85), (0.0, -0.85)), ((-0.45, -0.35), (0.0, -0.85), (0.45, -0.35))),
    "cross": (((-0.6, 0.0), (0.6, 0.0)), ((0.0, -0.6), (0.0, 0.6))),
    "tick": (((-0.5, 0.0), (-0.15, 0.5), (0.6, -0.6)),),
    "triangle": (((-0.6, 0.6), (0.0, -0.6), (0.6, 0.6), (-0.6, 0.6)),),
    "square": (((-0.6, -0.6), (0.6, -0.6), (0.6, 0.6), (-0.6, 0.6), (-0.6, -0.6)),),
    "diamond": (((0.0, -0.8), (0.5, 0.0), (0.0, 0.8), (-0.5, 0.0), (0.0, -0.8)),),
    "bolt": (((0.2, -0.85), (-0.3, 0.05), (0.25, -0.05), (-0.2, 0.85)),),
    "wave": (tuple((n / 8 - 0.75, 0.35 * math.sin(n * 0.9)) for n in range(13)),),
    "spiral": (tuple((n / 16 * math.cos(n * 0.7), n / 16 * math.sin(n * 0.7)) for n in range(15)),),
    "hook": (((0.2, -0.85), (0.2, 0.4), (-0.05, 0.75), (-0.4, 0.6), (-0.45, 0.3)),),
    "gate": (((-0.5, 0.85), (-0.5, -0.7), (0.5, -0.7), (0.5, 0.85)),),
    "fork": (((0.0, 0.85), (0.0, -0.1)), ((-0.5, -0.8), (-0.45, -0.1), (0.45, -0.1), (0.5, -0.8))),
}
"""None is a letter or a digit."""

SIGN_HANDS = ("thin", "bold", "slanted", "rounded", "beaded")
"""Those that letters have in training; not the held-out ones."""


def _wavy(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for row in range(-9, 10):
        wave = [(n / 8, row * period + 0.3 * period * math.sin(n * 0.6 / period)) for n in range(-12, 13)]
        pen.line(wave, look.body, period * 0.35)


def _ringed(pen: Pen, look: Look, rng: Random, period: float) -> None:
    x, y = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7)
    for ring in range(9, 0, -1):
        pen.dot(x, y, ring * period * 0.8, look.body if ring % 2 else look.ground)


def _rayed(pen: Pen, look: Look, rng: Random, period: float) -> None:
    rays, (x, y) = round(4 / period), (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5))
    for ray in range(rays):
        turns = (2 * math.pi * (ray + end) / rays for end in (0.0, 0.5))
        pen.polygon([(x, y), *(polar(3, turn, x, y) for turn in turns)], look.body)


def _starred(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for row in range(-4, 5):
        for column in range(-4, 5):
            middle = column * period * 1.3, row * period * 1.3
            turns = [math.pi * step / 5 for step in range(10)]
            points = [polar(period * (0.5 if n % 2 else 0.22), turn, *middle) for n, turn in enumerate(turns)]
            pen.polygon(points, look.body)


def _plaid(pen: Pen, look: Look, rng: Random, period: float) -> None:
    for step in range(-5, 6):
        place = step * period * 1.6
        pen.box(-2, place, 2, place + period * 0.7, look.body)
        pen.box(place, -2, place + period * 0.15, 2, look.part)
        pen.box(place + period * 0.3, -2, place + period * 0.45, 2, look.part)


OTHER_TEXTURES: dict[str, Callable[[Pen, Look, Random, float], None]] = {
    "plaid": _plaid,
    "rayed": _rayed,
    "ringed": _ringed,
    "starred": _starred,
    "wavy": _wavy,
}


def _fish(pen: Pen, look: Look, rng: Random) -> None:
    pen.polygon([(0.4, 0), (0.95, -0.4), (0.85, 0), (0.95, 0.4)], look.body)
    pen.oval(-0.15, 0, 0.7, rng.uniform(0.28, 0.42), look.body)
    pen.dot(-0.55, -0.08, 0.08, look.part)


def _house(pen: Pen, look: Look, rng: Random) -> None:
    pen.box(-0.6, -0.1, 0.6, 0.8, look.body)
    pen.polygon([(-0.75, -0.1), (0, -rng.uniform(0.6, 0.95)), (0.75, -0.1)], look.part)
    pen.box(-0.15, 0.3, 0.15, 0.8, look.part)


def _boat(pen: Pen, look: Look, rng: Random) -> None:
    pen.polygon([(-0.9, 0.3), (0.9, 0.3), (0.55, 0.75), (-0.6, 0.75)], look.body)
    pen.line([(0, 0.3), (0, -0.9)], look.part, 0.06)
    pen.polygon([(0.05, -0.85), (rng.uniform(0.45, 0.75), 0.15), (0.05, 0.15)], look.part)


def _fir(pen: Pen, look: Look, rng: Random) -> None:
    pen.box(-0.1, 0.5, 0.1, 0.95, look.part)
    for low in (0.0, 0.35, 0.7):
        pen.polygon([(0, low - 0.7), (0.3 + low / 2, low), (-0.3 - low / 2, low)], look.body)


def _cat(pen: Pen, look: Look, rng: Random) -> None:
    for side in (-1, 1):
        pen.polygon([(side * 0.6, -0.1), (side * 0.6, -0.9), (side * 0.1, -0.45)], look.body)
    pen.oval(0, 0.1, 0.68, rng.uniform(0.55, 0.68), look.body)
    for side in (-1, 1):
        pen.dot(side * 0.28, 0.0, 0.1, look.part)
        pen.line([(side * 0.15, 0.35), (side * 0.8, rng.uniform(0.25, 0.45))], look.part, 0.04)


def _key(pen: Pen, look: Look, rng: Random) -> None:
    pen.dot(-0.55, 0, 0.35, look.body)
    pen.dot(-0.55, 0, 0.16, look.ground)
    pen.line([(-0.25, 0), (0.9, 0)], look.body, 0.14)
    for x in (0.6, 0.82):
        pen.box(x - 0.06, 0, x + 0.06, rng.uniform(0.25, 0.35), look.body)


THINGS: dict[str, Callable[[Pen, Look, Random], None]] = {
    "boat": _boat,
    "cat": _cat,
    "fir": _fir,
    "fish": _fish,
    "house": _house,
    "key": _key,
}


def _colors(rng: Random) -> tuple[str, str, Look]:
    color, ground, part = rng.sample(sorted(NAMED_COLORS), 3)
    other = _shade(rng, part)
    return color, ground, Look(ground=_shade(rng, ground), body=_shade(rng, color), part=other, trim=other)


def _shade(rng: Random, name: str) -> Color:
    red, green, blue = (min(255, max(0, value + rng.randint(-20, 20))) for value in NAMED_COLORS[name])
    return red, green, blue


def _pose(rng: Random) -> tuple[str, Pose]:
    size = rng.choice(("small", "large"))
    scale = rng.uniform(0.4, 0.55) if size == "small" else rng.uniform(0.7, 0.9)
    x, y = (rng.uniform(scale - 1, 1 - scale) for _ in range(2))
    return size, Pose(x=x, y=y, scale=scale, angle=rng.uniform(-0.4, 0.4))


def random_texture(rng: Random) -> Described:
    """One of `OTHER_TEXTURES`; its manner is fine or coarse."""
    (color, ground, look), name = _colors(rng), rng.choice(sorted(OTHER_TEXTURES))
    manner = rng.choice(("fine", "coarse"))
    pen = Pen(Pose(angle=rng.uniform(0, 2 * math.pi)), look.ground)
    OTHER_TEXTURES[name](
        pen, look, rng, rng.uniform(0.2, 0.27) if manner == "fine" else rng.uniform(0.36, 0.5)
    )
    return Described(image=pen.layer().convert("RGB"), name=name, color=color, ground=ground, manner=manner)


def random_glyph(rng: Random) -> Described:
    """One of `SIGNS`; its manner is the hand."""
    (color, ground, look), name = _colors(rng), rng.choice(sorted(SIGNS))
    pen, hand = Pen(_pose(rng)[1], look.ground), rng.choice(SIGN_HANDS)
    draw_strokes(pen, SIGNS[name], HANDS[hand], look, rng)
    return Described(image=pen.layer().convert("RGB"), name=name, color=color, ground=ground, manner=hand)


def random_drawing(rng: Random) -> Described:
    """One of `THINGS`; its manner is small or large."""
    (color, ground, look), name = _colors(rng), rng.choice(sorted(THINGS))
    manner, pose = _pose(rng)
    pen = Pen(pose, look.ground)
    THINGS[name](pen, look, rng)
    return Described(image=pen.layer().convert("RGB"), name=name, color=color, ground=ground, manner=manner)
