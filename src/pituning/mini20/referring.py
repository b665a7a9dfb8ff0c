"""Expressions for one thing of a scene, in the manner of RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from pituning.mini20.definition import PIXELS
from pituning.mini20.phrases import (
    GAP,
    PATTERN_WORDS,
    RELATIONS,
    Phrase,
    about,
    distance,
    holds,
    in_world,
    noun_phrase,
    phrases_of,
    unique_phrases,
)
from pituning.mini20.scenes import COMMON, COUNT, Scene, Thing, World, sample_look, sample_scene

SCENE = (3, COUNT[1])
"""Things in a picture: with two, half of all guesses are right."""

PLAIN, DENYING = 0.25, 0.5
"""How often RefCOCO+ tries to name attributes and to deny one; else it compares. Where a scene has no such
words another is drawn, so 29 % name, 41 % deny."""

BY_LOOKS = 0.25
"""How often RefCOCOg tries to describe at length instead of relating."""

NEAREST = 0.25
"""How often, of those that relate, it tries to say what the thing is closest to instead of on which side."""


@dataclass(frozen=True, kw_only=True)
class Referral:
    """A text and the one thing of the scene that it fits."""

    scene: Scene
    text: str
    target: Thing


Expression = Callable[[Scene, Thing, Random], str | None]
"""A text for this thing alone; None where there is none of the kind."""


def refer(express: Expression, rng: Random, world: World = COMMON) -> Referral:
    """A scene, a thing of it and its text; scenes that `express` has no words for are drawn anew."""
    while True:
        given = [sample_look(rng, world)]  # the target is one of these: so held-out ones are asked about
        scene = sample_scene(rng, given=given, count=rng.randint(*SCENE), world=world)
        targets = [thing for thing in scene.things if thing.look == given[0]]
        target = rng.choice(targets)
        text = express(scene, target, rng)
        if text is not None:
            return Referral(scene=scene, text=in_world(text, rng, world), target=target)


def by_position(scene: Scene, target: Thing, rng: Random) -> str | None:
    """Short, as in RefCOCO: "top right circle", "second red thing from left".

    What the text says of looks fits several things; the position decides.
    """
    phrases = [Phrase(), *phrases_of(target.look, most=2)]
    rng.shuffle(phrases)
    for phrase in phrases:
        group = phrase.those(scene)
        forms = list(_positions(group, target))
        if len(group) >= 2 and forms:
            return rng.choice(forms).format(noun_phrase(phrase, rng))
    return None


def _positions(group: Sequence[Thing], target: Thing) -> Iterator[str]:
    """Templates whose position, among `group`, is that of `target` alone."""
    for sign, (x, y) in _SIDES.items():
        others = [_along(thing, x, y) for thing in group if thing is not target]
        if all(_along(target, x, y) >= other + GAP for other in others):
            yield from (f"{sign} {{}}", f"{{}} {_AT[sign]}")
    for sign, (x, y) in _CORNERS.items():
        if all(_in_corner(t, x, y, GAP if t is target else -GAP) == (t is target) for t in group):
            yield from (f"{sign} {{}}", f"{{}} in the {sign}")
    if all(_in_middle(t, 8 if t is target else 14) == (t is target) for t in group):
        yield from ("center {}", "{} in the middle")
    order = sorted(group, key=lambda thing: thing.patch.centre)
    steps = pairwise(thing.patch.centre[0] for thing in order)
    if len(group) >= 3 and all(right - left >= GAP for left, right in steps):
        if order[1] is target:
            yield "second {} from left"
        if order[-2] is target:
            yield "second {} from right"


_SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_AT = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_CORNERS = {"top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1)}


def _along(thing: Thing, x: int, y: int) -> float:
    centre = thing.patch.centre
    return centre[0] * x + centre[1] * y


def _in_corner(thing: Thing, x: int, y: int, margin: float) -> bool:
    """Whether the centre is past the middle by `margin` both ways."""
    across, down = ((place - PIXELS / 2) for place in thing.patch.centre)
    return across * x >= margin / 2 and down * y >= margin / 2


def _in_middle(thing: Thing, reach: float) -> bool:
    return all(abs(place - PIXELS / 2) <= reach for place in thing.patch.centre)


def by_appearance(scene: Scene, target: Thing, rng: Random) -> str | None:
    """Short and without positions, as in RefCOCO+: "dotted red one", "not red circle", "same color as star".

    Every word is needed.
    """
    way = rng.random()
    if way < PLAIN:
        phrases = [phrase for phrase in unique_phrases(scene, target) if _length(phrase) >= 2]
        return noun_phrase(rng.choice(phrases), rng) if phrases else None
    texts = [*(_denials if way < PLAIN + DENYING else _likenesses)(scene, target, rng)]
    return rng.choice(texts) if texts else None


def _denials(scene: Scene, target: Thing, rng: Random) -> Iterator[str]:
    """What the other things of its shape are and it is not."""
    others = [t.look for t in Phrase(shape=target.look.shape).those(scene) if t is not target]
    for name, words in (("colour", None), ("pattern", PATTERN_WORDS)):
        values = {getattr(look, name) for look in others}
        if len(values) == 1 and getattr(target.look, name) not in values:
            (value,) = values
            yield f"not {words[value] if words else value} {target.look.shape}"


def _likenesses(scene: Scene, target: Thing, rng: Random) -> Iterator[str]:
    """Whose colour, pattern or shape it shares, as nothing else does."""
    for name, word in (("colour", "color"), ("pattern", "pattern"), ("shape", "shape")):
        alike = [t for t in scene.things if getattr(t.look, name) == getattr(target.look, name)]
        if len(alike) == 2:
            (anchor,) = (thing for thing in alike if thing is not target)
            for phrase in unique_phrases(scene, anchor):
                if getattr(phrase, name) is None:
                    yield f"same {word} as {noun_phrase(phrase, rng)}"


def _length(phrase: Phrase) -> int:
    return sum(said is not None for said in vars(phrase).values())


def by_relation(scene: Scene, target: Thing, rng: Random) -> str | None:
    """Long, as in RefCOCOg: "the small circle that is to the left of the large red square".

    What comes before "that" fits several things, what comes after "the" one; a quarter describe at length.
    """
    if rng.random() < BY_LOOKS:
        return _at_length(scene, target, rng)
    relations = _nearest if rng.random() < NEAREST else _sides
    phrases = list(phrases_of(target.look, most=3))
    rng.shuffle(phrases)
    anchors = [thing for thing in scene.things if thing is not target]
    rng.shuffle(anchors)
    for phrase in phrases:
        group = phrase.those(scene)
        for anchor in anchors if len(group) >= 2 else ():
            names = unique_phrases(scene, anchor)
            found = [] if anchor in group else list(relations(group, target, anchor))
            if names and found:
                head, tail = (noun_phrase(p, rng, nouns=_LONG) for p in (phrase, rng.choice(names)))
                return f"the {head} {rng.choice(_LINKS)}{rng.choice(found)} the {tail}"
    return None


_LONG = ("thing", "shape", "object")
_LINKS = ("", "that is ", "which is ")


def _sides(group: Sequence[Thing], target: Thing, anchor: Thing) -> Iterator[str]:
    """On which side of `anchor` is `target`, and certainly no other of `group`."""
    others = [thing for thing in group if thing is not target]
    for relation, words in RELATIONS.items():
        if holds(target, relation, anchor) and not any(
            holds(other, relation, anchor) is not False for other in others
        ):
            yield words


def _nearest(group: Sequence[Thing], target: Thing, anchor: Thing) -> Iterator[str]:
    """Whether `target` is certainly closer to `anchor` than the rest of `group`."""
    others = [thing for thing in group if thing is not target]
    if all(distance(target, anchor) + GAP <= distance(other, anchor) for other in others):
        yield "closest to"


def _at_length(scene: Scene, target: Thing, rng: Random) -> str | None:
    """ "the small circle that is red and dotted": every attribute that is needed, and one more."""
    phrases = [phrase for phrase in unique_phrases(scene, target) if _length(phrase) >= 2]
    if not phrases:
        return None
    look, said = target.look, {name for name, value in vars(rng.choice(phrases)).items() if value}
    said |= {"colour", "pattern"}
    head = noun_phrase(about(look, sorted(said - {"colour", "pattern"})), rng, nouns=_LONG)
    return f"the {head} {rng.choice(_LINKS[1:])}{look.colour} and {PATTERN_WORDS[look.pattern]}"
