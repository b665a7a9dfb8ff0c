"""Characters: letters of strokes in several hands, and real handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pituning.mini20.definition import PIXELS
from pituning.mini20.pen import Look, Pen, Point, Pose

Strokes = tuple[tuple[Point, ...], ...]


def _bowl(top: float, end: float, wide: float = 0.5, left: float = -0.45) -> tuple[Point, ...]:
    """The bow of B, P and R to the right of a stem."""
    middle, half = (top + end) / 2, (end - top) / 2
    turns = [math.pi * (step / 8 - 0.5) for step in range(9)]
    bow = [(left + 0.4 + wide * math.cos(turn), middle + half * math.sin(turn)) for turn in turns]
    return ((left, top), *bow, (left, end))


_STEM = ((-0.45, -0.85), (-0.45, 0.85))
_ES = ((0.45, -0.6), (0.2, -0.84), (-0.2, -0.84), (-0.45, -0.6), (-0.4, -0.25), (0.4, 0.2), (0.45, 0.6))

LETTERS: dict[str, Strokes] = {
    "letter a": (((-0.55, 0.85), (0.0, -0.85), (0.55, 0.85)), ((-0.33, 0.25), (0.33, 0.25))),
    "letter b": (_STEM, _bowl(-0.85, -0.02, 0.42), _bowl(-0.02, 0.85)),
    "letter e": (
        _STEM,
        ((-0.45, -0.85), (0.45, -0.85)),
        ((-0.45, 0.0), (0.3, 0.0)),
        ((-0.45, 0.85), (0.45, 0.85)),
    ),
    "letter f": (_STEM, ((-0.45, -0.85), (0.45, -0.85)), ((-0.45, -0.05), (0.3, -0.05))),
    "letter h": (_STEM, ((0.45, -0.85), (0.45, 0.85)), ((-0.45, 0.0), (0.45, 0.0))),
    "letter k": (_STEM, ((0.45, -0.85), (-0.42, 0.1)), ((-0.12, -0.2), (0.5, 0.85))),
    "letter m": (((-0.6, 0.85), (-0.55, -0.85), (0.0, 0.3), (0.55, -0.85), (0.6, 0.85)),),
    "letter n": (((-0.45, 0.85), (-0.45, -0.85), (0.45, 0.85), (0.45, -0.85)),),
    "letter p": (_STEM, _bowl(-0.85, 0.1)),
    "letter r": (_STEM, _bowl(-0.85, 0.05), ((-0.05, 0.05), (0.5, 0.85))),
    "letter s": ((*_ES, (0.2, 0.84), (-0.2, 0.84), (-0.45, 0.6)),),
    "letter z": (((-0.45, -0.85), (0.45, -0.85), (-0.45, 0.85), (0.45, 0.85)),),
}

WOBBLE = 0.08
"""How far each point of a stroke may slip: more makes H of A and P of R."""


@final
@dataclass(frozen=True, kw_only=True)
class Hand:
    """A way to write: stroke width, slant, and what is done to the strokes."""

    width: float
    slant: float = 0.0
    round: bool = False
    serif: bool = False
    beads: bool = False
    hollow: bool = False


HANDS = {
    "thin": Hand(width=0.09),
    "bold": Hand(width=0.3),
    "slanted": Hand(width=0.16, slant=0.35),
    "rounded": Hand(width=0.2, round=True),
    "beaded": Hand(width=0.17, beads=True),
    "serif": Hand(width=0.13, serif=True),
    "hollow": Hand(width=0.34, hollow=True, slant=-0.15),
}


def draw_strokes(pen: Pen, strokes: Strokes, hand: Hand, look: Look, rng: Random) -> None:
    """Strokes as that hand writes them, no two times alike."""
    slant, width = hand.slant + rng.uniform(-0.12, 0.12), hand.width * rng.uniform(0.8, 1.2)
    written = []
    for stroke in strokes:
        moved = [(x + rng.uniform(-WOBBLE, WOBBLE), y + rng.uniform(-WOBBLE, WOBBLE)) for x, y in stroke]
        leant = [(x - slant * y, y) for x, y in moved]
        written.append(_cut_corners(leant) if hand.round else leant)
    for line in written:
        if hand.beads:
            for x, y in _beads(line, width * 1.15):
                pen.dot(x, y, width / 2, look.body)
        else:
            pen.line(line, look.body, width)
        for x, y in (line[0], line[-1]) if hand.serif else ():
            pen.line([(x - 0.17, y), (x + 0.17, y)], look.body, width)
    for line in written if hand.hollow else ():
        pen.line(line, look.ground, width * 0.5)


def _cut_corners(line: Sequence[Point]) -> list[Point]:
    """Chaikin's curve, twice, ends kept."""
    for _ in range(2):
        cut = [line[0]]
        for (x0, y0), (x1, y1) in pairwise(line):
            cut += [((3 * x0 + x1) / 4, (3 * y0 + y1) / 4), ((x0 + 3 * x1) / 4, (y0 + 3 * y1) / 4)]
        line = [*cut, line[-1]]
    return list(line)


def _beads(line: Sequence[Point], gap: float) -> list[Point]:
    found = [line[0]]
    for (x0, y0), (x1, y1) in pairwise(line):
        steps = max(1, round(math.hypot(x1 - x0, y1 - y0) / gap))
        found += [(x0 + (x1 - x0) * n / steps, y0 + (y1 - y0) * n / steps) for n in range(1, steps + 1)]
    return found


def draw_letter(pen: Pen, name: str, hand: str, look: Look, rng: Random) -> None:
    """One of `LETTERS` in one of `HANDS`."""
    draw_strokes(pen, LETTERS[name], HANDS[hand], look, rng)


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PARTS = {"train": (0, 1100), "validation": (1100, 1300), "test": (1300, 1797)}
"""Of the 1,797 real pictures, in one order for every seed: no picture is in two splits of any seed."""


@cache
def _real_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # lazy: a second to import, and only this task needs it

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return (digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64), order


@cache
def digit_numbers(name: str, split: str) -> tuple[int, ...]:
    """The real pictures of a digit in a split, as indices of scikit-learn's `load_digits`."""
    _, targets, order = _real_digits()
    start, end = PARTS[split]
    return tuple(int(index) for index in order[start:end] if targets[index] == DIGITS.index(name))


def digit_mask(number: int, pose: Pose, rng: Random) -> Image.Image:
    """A real digit of 8 x 8 pixels in the size of a picture, its ink white on black."""
    ink = Image.fromarray(_real_digits()[0][number])
    wide, high = (round(PIXELS * pose.scale * rng.uniform(0.85, 1.15)) for _ in range(2))
    large = ink.resize((wide, high), Image.Resampling.BICUBIC)
    large = large.rotate(math.degrees(pose.angle), Image.Resampling.BILINEAR, expand=True)
    left, top = (
        (1 + at) * PIXELS / 2 - side / 2 for at, side in zip((pose.x, pose.y), large.size, strict=True)
    )
    mask = Image.new("L", (PIXELS, PIXELS))
    mask.paste(large, (round(left), round(top)))
    return mask.point([min(255, max(0, round(1.6 * (value - 40)))) for value in range(256)])
