"""Whether a picture implies a hypothesis: yes, no, or maybe, where a cover may hide what decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from pituning.mini20.phrases import Phrase, about, in_world, noun_phrase, with_article
from pituning.mini20.scenes import (
    ATTRIBUTES,
    COMMON,
    LARGEST,
    Look,
    Patch,
    Scene,
    World,
    sample_cover,
    sample_look,
    sample_scene,
)
from pituning.mini20.visual_questions import NAMES, near_miss

LABELS = ("no", "yes", "maybe")

COUNT = (2, 4)
"""Things in a picture; a cover takes the room of the fifth."""

COVERED = 0.25
"""How often there is a cover though what is seen decides: so a cover alone does not say "maybe"."""

ALMOST = 0.2
"""How often something is there that almost fits what is asked for."""

SIDES = ("left", "right", "top", "bottom")
"""Of a picture, where a cover may be."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A scene, a true caption that does not decide, a hypothesis and its label."""

    scene: Scene
    premise: str
    hypothesis: str
    label: str


_Draft = tuple[Scene, str]
"""A scene and a hypothesis."""


def claim(rng: Random, world: World = COMMON) -> Claim:
    """A claim; labels are uniform in every form of hypothesis.

    What a cover hides is unknown: "there is a star" is then "maybe" unless one is seen.

    Example:
        >>> found = claim(Random(2))
        >>> found.hypothesis, found.label in LABELS
        ('there is exactly one dotted yellow object', True)
    """
    form, label = rng.choice(_FORMS), rng.choice(LABELS)
    scene, hypothesis = form(rng, world, label)
    premise = rng.choice(_PREMISES).format("dark" if scene.background.dark else "light")
    return Claim(
        scene=scene,
        premise=in_world(premise, rng, world),
        hypothesis=in_world(hypothesis, rng, world),
        label=label,
    )


_PREMISES = (
    "some shapes on a {} background",
    "a picture of things in front of a {} background",
    "some shapes",
)
"""What a caption says of one thing would make it hard to see which thing is asked for."""

_THERE = ("there is {}", "the picture has {}", "we can see {}")


def _exists(rng: Random, world: World, label: str) -> _Draft:
    """Something of a kind anywhere."""
    phrase, look = _one_or_two(rng, world)
    scene = _with(rng, world, phrase, [look] * (label == "yes"), _cover(rng, label, decided="yes"))
    return scene, _there_is(phrase, rng)


def _none(rng: Random, world: World, label: str) -> _Draft:
    """Nothing of a kind anywhere."""
    phrase, look = _one_or_two(rng, world)
    scene = _with(rng, world, phrase, [look] * (label == "no"), _cover(rng, label, decided="no"))
    hypothesis = rng.choice(("there is no {}", "we cannot see any {}")).format(
        noun_phrase(phrase, rng, nouns=NAMES)
    )
    return scene, hypothesis


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
    return scene, form.format(getattr(phrase, name))


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
    return scene, hypothesis


_FORMS = (_exists, _exists, _exists, _exists, _none, _all, _exactly)
"""Mostly one form: were half of all denials, what is seen would tell nothing until those are read aright."""


def _cover(rng: Random, label: str, decided: str) -> Patch | None:
    """Always one for "maybe", sometimes where the label is `decided` by what is seen, else none."""
    if label == "maybe" or (label == decided and rng.random() < COVERED):
        return sample_cover(rng, rng.choice(SIDES))
    return None


def _one_or_two(rng: Random, world: World) -> tuple[Phrase, Look]:
    """A phrase of one or two attributes, and a look that it fits."""
    look = sample_look(rng, world)
    return about(look, rng.sample(tuple(ATTRIBUTES), rng.choice((1, 2)))), look


def _with(rng: Random, world: World, phrase: Phrase, given: Sequence[Look], cover: Patch | None) -> Scene:
    """A scene where a phrase fits `given` alone: with what almost fits, or nothing of its shape or colour."""
    if rng.random() < ALMOST:
        close = near_miss(rng, phrase.complete(rng, world), phrase, world)
        return _scene(rng, world, [close, *given], phrase.fits, cover)
    return _scene(
        rng,
        world,
        given,
        lambda look: phrase.fits(look) or look.shape == phrase.shape or look.colour == phrase.colour,
        cover,
    )


def _scene(
    rng: Random, world: World, given: Sequence[Look], avoid: Callable[[Look], bool], cover: Patch | None
) -> Scene:
    count = max(len(given), rng.randint(*COUNT))
    return sample_scene(rng, given=given, count=count, world=world, avoid=avoid, cover=cover)


def _there_is(phrase: Phrase, rng: Random) -> str:
    return rng.choice(_THERE).format(with_article(noun_phrase(phrase, rng, nouns=NAMES)))
