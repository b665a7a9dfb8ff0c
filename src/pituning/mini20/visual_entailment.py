"""Whether a picture implies a hypothesis: yes, no, or maybe, where a cover may hide what decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from pituning.mini20.definition import PIXELS
from pituning.mini20.phrases import GAP, Phrase, about, describe, in_world, noun_phrase, with_article
from pituning.mini20.scenes import (
    ATTRIBUTES,
    COMMON,
    LARGEST,
    Look,
    Patch,
    Scene,
    Thing,
    World,
    sample_cover,
    sample_look,
    sample_scene,
)
from pituning.mini20.visual_questions import NAMES, near_miss, two_or_three

LABELS = ("no", "yes", "maybe")

COUNT = (2, 4)
"""Things in a picture; a cover takes the room of the fifth."""

COVERED = 0.5
"""Share of covers where a hypothesis is decided with or without one: so a cover alone decides nothing."""

SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_ON = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A scene, a true caption that does not decide, a hypothesis and its label."""

    scene: Scene
    premise: str
    hypothesis: str
    label: str


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """`mentioned`: whether the premise may be about such a thing; others would give the label away."""

    scene: Scene
    hypothesis: str
    mentioned: Callable[[Thing], bool]


def claim(rng: Random, world: World = COMMON) -> Claim:
    """A claim; labels are uniform in every form of hypothesis.

    What a cover hides is unknown: "there is a star" is then "maybe" unless one is seen.

    Example:
        >>> found = claim(Random(2))
        >>> found.hypothesis, found.label in LABELS
        ('there is exactly one dotted yellow object', True)
    """
    form, label = rng.choice(_FORMS), rng.choice(LABELS)
    while True:
        draft = form(rng, world, label)
        things = [thing for thing in draft.scene.things if draft.mentioned(thing)]
        if things:
            premise = rng.choice(_PREMISES).format(describe(rng.choice(things), rng))
            return Claim(
                scene=draft.scene,
                premise=in_world(premise, rng, world),
                hypothesis=in_world(draft.hypothesis, rng, world),
                label=label,
            )


_PREMISES = ("a picture of some shapes with {}", "some shapes and one of them is {}", "{} and other things")
_THERE = ("there is {}", "the picture has {}", "we can see {}")


def _on_side(rng: Random, world: World, label: str) -> _Draft:
    """Something of a kind on one side: there is always a cover, on that side or on the opposite one."""
    phrase, look = two_or_three(rng, world)
    side = rng.choice(tuple(SIDES))
    covered = {"yes": rng.choice((side, OPPOSITE[side])), "no": OPPOSITE[side], "maybe": side}[label]
    seen = label == "yes" or rng.random() < 0.5  # if not on that side, then often on the other
    given = [near_miss(rng, look, phrase, world)] + [look] * seen
    while True:
        scene = _scene(rng, world, given, phrase.fits, sample_cover(rng, covered))
        depths = [depth(thing, side) for thing in phrase.those(scene)]
        if all(found >= GAP if label == "yes" else found <= -GAP for found in depths):
            hypothesis = f"{_there_is(phrase, rng)} {_ON[side]}"
            return _Draft(scene=scene, hypothesis=hypothesis, mentioned=_other_than(phrase))


def _exists(rng: Random, world: World, label: str) -> _Draft:
    """Something of a kind anywhere."""
    phrase, look = two_or_three(rng, world)
    given = [near_miss(rng, look, phrase, world)] + [look] * (label == "yes")
    scene = _scene(rng, world, given, phrase.fits, _cover(rng, label, decided="yes"))
    return _Draft(scene=scene, hypothesis=_there_is(phrase, rng), mentioned=_other_than(phrase))


def _none(rng: Random, world: World, label: str) -> _Draft:
    """Nothing of a kind anywhere."""
    phrase, look = two_or_three(rng, world)
    given = [near_miss(rng, look, phrase, world)] + [look] * (label == "no")
    scene = _scene(rng, world, given, phrase.fits, _cover(rng, label, decided="no"))
    hypothesis = rng.choice(("there is no {}", "we cannot see any {}")).format(
        noun_phrase(phrase, rng, nouns=NAMES)
    )
    return _Draft(scene=scene, hypothesis=hypothesis, mentioned=_other_than(phrase))


def _all(rng: Random, world: World, label: str) -> _Draft:
    """Everything has one colour, or one pattern; all but one have if not."""
    name = rng.choice(("colour", "pattern"))
    phrase = Phrase(**{name: rng.choice(ATTRIBUTES[name])})
    given = [phrase.complete(rng, world) for _ in range(rng.randint(*COUNT) - (label == "no"))]
    given = [replace(look, size="small") if n >= LARGEST else look for n, look in enumerate(given)]
    cover = _cover(rng, label, decided="no")
    odd = [replace(near_miss(rng, given[0], phrase, world), size="small")] if label == "no" else []
    scene = sample_scene(rng, given=given + odd, count=len(given + odd), world=world, cover=cover)
    form = rng.choice(("all the shapes are {}", "every shape is {}"))
    said = getattr(phrase, name)
    return _Draft(
        scene=scene, hypothesis=form.format(said), mentioned=lambda thing: getattr(thing.look, name) == said
    )


def _exactly(rng: Random, world: World, label: str) -> _Draft:
    """One or two of a kind: a cover may hide one more."""
    look = replace(sample_look(rng, world), size="small")  # large ones have no room
    phrase = about(look, rng.sample(tuple(ATTRIBUTES), rng.choice((1, 1, 2))))
    number = rng.choice((1, 2))
    cover = _cover(rng, label, decided="no")
    seen = number
    if label == "maybe":
        seen -= rng.choice((0, 1))
    elif label == "no":
        seen += 1 if cover else rng.choice((-1, 1))
    given = [replace(phrase.complete(rng, world), size="small") for _ in range(seen)]
    given.append(near_miss(rng, look, phrase, world))
    scene = _scene(rng, world, given, phrase.fits, cover)
    words = noun_phrase(phrase, rng, plural=number == 2, nouns=NAMES)
    hypothesis = f"there {('is', 'are')[number - 1]} exactly {('one', 'two')[number - 1]} {words}"
    return _Draft(scene=scene, hypothesis=hypothesis, mentioned=_other_than(phrase))


_FORMS = (_on_side, _exists, _exists, _none, _none, _all, _exactly)
"""By sides the cover alone does not part "maybe" from the rest; in the other forms it tells something."""


def depth(thing: Thing, side: str) -> float:
    """Pixels from the middle of the picture towards a side, to the thing's centre."""
    x, y = SIDES[side]
    across, down = (place - PIXELS / 2 for place in thing.patch.centre)
    return across * x + down * y


def _cover(rng: Random, label: str, decided: str) -> Patch | None:
    """Always one for "maybe", half the time where the label is `decided` by what is seen, else none."""
    if label == "maybe" or (label == decided and rng.random() < COVERED):
        return sample_cover(rng, rng.choice(tuple(SIDES)))
    return None


def _scene(
    rng: Random, world: World, given: Sequence[Look], avoid: Callable[[Look], bool], cover: Patch | None
) -> Scene:
    count = max(len(given), rng.randint(*COUNT))
    return sample_scene(rng, given=given, count=count, world=world, avoid=avoid, cover=cover)


def _there_is(phrase: Phrase, rng: Random) -> str:
    return rng.choice(_THERE).format(with_article(noun_phrase(phrase, rng, nouns=NAMES)))


def _other_than(phrase: Phrase) -> Callable[[Thing], bool]:
    return lambda thing: not phrase.fits(thing.look)
