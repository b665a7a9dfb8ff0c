"""The world of the vision-language tasks: a few flat shapes that do not overlap, on a background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from pituning.errors import TaskError
from pituning.mini20.definition import PIXELS

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (214, 32, 38),
    "orange": (255, 135, 10),
    "yellow": (245, 215, 30),
    "green": (35, 150, 60),
    "blue": (35, 85, 225),
    "purple": (130, 55, 180),
    "pink": (250, 135, 195),
    "brown": (135, 80, 42),
}
"""Eight, as far apart as names allow; neither black nor white, which backgrounds have."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "moon")
PATTERNS = ("plain", "striped", "dotted", "hollow")

SIZES: dict[str, tuple[int, int]] = {"small": (11, 14), "large": (20, 25)}
"""Sides in pixels, first and last: patterns cannot be seen below 11, and no side is between the two."""

COUNT = (2, 5)
"""Fewest and most things in a picture: five of them still leave room to place them freely."""

LARGEST = 2
"""So many things of a picture at most are large by chance, lest five do not fit."""

ALIKE = 0.7
"""Share of things that copy an earlier one but for `CHANGES` of their attributes: without them one word
would single out most things."""

CHANGES = (0, 1, 1, 1, 2, 2)
"""How many attributes of a copy differ, drawn uniformly: twins need positions, the rest several words."""

APART = 2
"""Pixels between any two things."""

TINT = 14
"""Each channel of a thing's colour is off by at most this: colours are kinds, not pixel values."""

COVER = 26
"""Side of a cover in pixels: it can hide any one thing."""

TRIES = 500
"""Ways to place all things before the room is found too small; one or two are enough as a rule."""

DARK = 0.3
"""Share of dark backgrounds."""

HELD_OUT = frozenset(
    (colour, shape, pattern)
    for c, colour in enumerate(COLOURS)
    for s, shape in enumerate(SHAPES)
    for p, pattern in enumerate(PATTERNS)
    if (c + 3 * s + 2 * p) % len(COLOURS) == 0
)
"""32 of the 256 combinations of colour, shape and pattern, seen in test pictures alone. Of each shape and
pattern one colour is missing, so every pair of attributes is seen in training."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a split may show.

    Attributes:
        held_out: share of things drawn from `HELD_OUT`; 0 excludes those combinations.
        rare_words: share of words for which the text has one of `phrases.HELD_OUT_WORDS` instead.
    """

    held_out: float = 0.0
    rare_words: float = 0.0


COMMON = World()
"""Training, validation and pre-training."""

UNSEEN = World(held_out=1 / 3, rare_words=0.1)
"""Test: enough of what is new to count, not so much that nothing else does."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a thing looks like, in words."""

    shape: str
    colour: str
    pattern: str
    size: str

    @property
    def held_out(self) -> bool:
        """Whether only test pictures may show it."""
        return (self.colour, self.shape, self.pattern) in HELD_OUT


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A square of the picture: left and upper edge and side in pixels."""

    x: int
    y: int
    side: int

    @property
    def centre(self) -> tuple[float, float]:
        """Pixels from the left and from above."""
        return (self.x + self.side / 2, self.y + self.side / 2)

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1 as fractions of the picture."""
        edges = (self.x, self.y, self.x + self.side, self.y + self.side)
        return (edges[0] / PIXELS, edges[1] / PIXELS, edges[2] / PIXELS, edges[3] / PIXELS)

    def touches(self, other: Patch) -> bool:
        """Whether less than `APART` pixels lie between the two."""
        across = self.x < other.x + other.side + APART and other.x < self.x + self.side + APART
        return across and self.y < other.y + other.side + APART and other.y < self.y + self.side + APART


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A look and where it is; `rgb` is the colour it is drawn in."""

    look: Look
    patch: Patch
    rgb: RGB

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1 as fractions of the picture: the shape touches all four edges."""
        return self.patch.box


@dataclass(frozen=True, kw_only=True)
class Background:
    """What lies behind: "flat", "gradient" (from `first` to `second`), "bands" of the two, or "grain"."""

    kind: str
    dark: bool
    first: RGB
    second: RGB
    seed: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture before it is drawn; nobody can know what is behind the cover."""

    things: tuple[Thing, ...]
    background: Background
    cover: Patch | None = None


BACKGROUNDS = ("flat", "gradient", "bands", "grain")


def sample_scene(
    rng: Random,
    *,
    given: Sequence[Look] = (),
    count: int | None = None,
    world: World = COMMON,
    avoid: Callable[[Look], bool] = lambda look: False,
    cover: Patch | None = None,
) -> Scene:
    """Things at random places: first the looks `given`, then others that `avoid` does not reject.

    The same state of `rng` gives the same scene. `count` is that of all things (default: within `COUNT`);
    there are fewer where `avoid` leaves no other.

    Example:
        >>> scene = sample_scene(Random(0), count=3)
        >>> len(scene.things), scene.things[0].look.held_out
        (3, False)
    """
    looks = list(given)
    for _ in range((rng.randint(*COUNT) if count is None else count) - len(given)):
        looks += _another(rng, looks, world, avoid)
    rng.shuffle(looks)
    patches = place(rng, looks, cover)
    things = [
        Thing(look=look, patch=patch, rgb=_off(rng, COLOURS[look.colour], TINT))
        for look, patch in zip(looks, patches, strict=True)
    ]
    return Scene(things=tuple(things), background=sample_background(rng), cover=cover)


def sample_look(rng: Random, world: World = COMMON) -> Look:
    """A look; each attribute is uniform but for what is held out."""
    if rng.random() < world.held_out:
        colour, shape, pattern = rng.choice(_HELD_OUT)
        return Look(shape=shape, colour=colour, pattern=pattern, size=rng.choice(tuple(SIZES)))
    while True:
        look = Look(**{name: rng.choice(values) for name, values in ATTRIBUTES.items()})
        if not look.held_out:
            return look


def changed(rng: Random, look: Look, changes: int, world: World = COMMON) -> Look:
    """`look` with other values of so many attributes."""
    while True:
        values = {
            name: rng.choice([value for value in ATTRIBUTES[name] if value != getattr(look, name)])
            for name in rng.sample(tuple(ATTRIBUTES), changes)
        }
        other = replace(look, **values)
        if world.held_out or not other.held_out:
            return other


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "size": tuple(SIZES),
}
_HELD_OUT = sorted(HELD_OUT)


def _another(rng: Random, looks: Sequence[Look], world: World, avoid: Callable[[Look], bool]) -> list[Look]:
    """A fresh look, or a copy of one of `looks` with a few changes; none where `avoid` rejects forty."""
    for _ in range(40):
        if looks and rng.random() < ALIKE:
            look = changed(rng, rng.choice(looks), rng.choice(CHANGES), world)
        else:
            look = sample_look(rng, world)
        if sum(other.size == "large" for other in looks) >= LARGEST:
            look = replace(look, size="small")
        if not avoid(look):
            return [look]
    return []


def place(rng: Random, looks: Sequence[Look], cover: Patch | None = None) -> list[Patch]:
    """Where the things are, none touching another, the cover or an edge.

    Raises:
        TaskError: there is no room for them, as for three large things beside a cover.
    """
    sides = [rng.randint(*SIZES[look.size]) for look in looks]
    order = sorted(range(len(looks)), key=lambda index: -sides[index])  # the largest needs the most room
    for _ in range(TRIES):
        taken = [] if cover is None else [cover]
        placed = {index: patch for index in order if (patch := _free(rng, sides[index], taken)) is not None}
        if len(placed) == len(looks):
            return [placed[index] for index in range(len(looks))]
    given = f"{[look.size for look in looks]}{' and a cover' if cover else ''}"
    raise TaskError("the things of a scene must fit into it", given, "Ask for fewer, or smaller ones.")


def _free(rng: Random, side: int, taken: list[Patch]) -> Patch | None:
    """A place that touches none of `taken`, added to them; None after thirty tries."""
    for _ in range(30):
        patch = Patch(x=rng.randint(1, PIXELS - 1 - side), y=rng.randint(1, PIXELS - 1 - side), side=side)
        if not any(map(patch.touches, taken)):
            taken.append(patch)
            return patch
    return None


def sample_cover(rng: Random, side: str) -> Patch:
    """A cover within the "left", "right", "top" or "bottom" half of the picture."""
    far = PIXELS - COVER - 1
    near, free = rng.randint(1, PIXELS // 2 - COVER - 1), rng.randint(1, far)
    along = near if side in ("left", "top") else far + 1 - near
    x, y = (along, free) if side in ("left", "right") else (free, along)
    return Patch(x=x, y=y, side=COVER)


def sample_background(rng: Random) -> Background:
    """Pale, or dark: either way far from the colours of things."""
    dark = rng.random() < DARK
    grey = rng.randint(18, 48) if dark else rng.randint(212, 246)
    first = _off(rng, (grey, grey, grey), 9)
    return Background(
        kind=rng.choice(BACKGROUNDS),
        dark=dark,
        first=first,
        second=_off(rng, first, 9),
        seed=rng.getrandbits(32),
    )


def _off(rng: Random, rgb: RGB, most: int) -> RGB:
    red, green, blue = (min(255, max(0, value + rng.randint(-most, most))) for value in rgb)
    return (red, green, blue)
