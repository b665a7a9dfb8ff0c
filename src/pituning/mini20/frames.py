"""What a sentence says, without its words: who did what to whom, where, when and how."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pituning.mini20 import lexicon
from pituning.mini20.lexicon import CHILDREN, DIMENSION, HELD_OUT, NAME_SET, NAMES, PARENT, QUALITIES
from pituning.mini20.verbs import MANNERLESS, VERBS

_COLOUR_LAST = {
    name: place for place, name in enumerate(sorted(QUALITIES, key=lambda name: name == "colour"))
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A person, an animal or a thing, or several of them.

    Attributes:
        noun: a kind of any level, or a name.
        modifiers: qualities, at most one of a dimension, in the order in which they are said.
        number: "one", one of `lexicon.NUMBERS` or `lexicon.SEVERAL`.
        quantifier: "" (a certain one), or "all", "some" or "no" of the kind.
    """

    noun: str
    modifiers: tuple[str, ...] = ()
    number: str = "one"
    quantifier: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One event; a place, day, hour or manner of None is left open.

    Two frames that are compared are about the same event, and different words of one level name different
    people, things, places and times.
    """

    agent: Thing
    verb: str
    patient: Thing | None = None
    place: str | None = None
    day: str | None = None
    hour: str | None = None
    manner: str | None = None
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words that a split may use; higher kinds, verbs, places and times are always in it."""

    names: tuple[str, ...]
    children: Mapping[str, tuple[str, ...]]
    qualities: Mapping[str, tuple[str, ...]]


def _vocabulary(barred: frozenset[str]) -> Vocabulary:
    def kept(words: Sequence[str]) -> tuple[str, ...]:
        return tuple(word for word in words if word not in barred)

    return Vocabulary(
        names=kept(NAMES),
        children={kind: kept(words) for kind, words in CHILDREN.items()},
        qualities={name: kept(words) for name, words in QUALITIES.items()},
    )


SEEN = _vocabulary(HELD_OUT)
"""Of training, validation and pre-training."""
ALL = _vocabulary(frozenset())
"""Of test splits."""

_VERBS = tuple(VERBS)
_LEVELS = (0.12, 0.4)  # highest kinds, then middle ones; the rest is as specific as can be
_NAMED = 0.3
_QUALIFIED = 0.45
_COUNTED = 0.3


def draw_thing(rng: random.Random, words: Vocabulary, top: str, *, counted: bool = False) -> Thing:
    """Something of the highest kind `top`; numbers above one only where `counted`."""
    if top == "person" and rng.random() < _NAMED:
        return Thing(noun=rng.choice(words.names))
    level, noun = rng.random(), top
    if level >= _LEVELS[0]:
        noun = rng.choice(words.children[noun])
    if level >= _LEVELS[1]:
        noun = rng.choice(words.children[noun])
    modifiers: tuple[str, ...] = ()
    if rng.random() < _QUALIFIED:
        modifiers = (draw_quality(rng, words, top),)
        if rng.random() < 0.2:
            modifiers = with_modifier(modifiers, draw_quality(rng, words, top), top)
    number = "one"
    if counted and rng.random() < _COUNTED:
        number = lexicon.SEVERAL if rng.random() < 0.3 else rng.choice(lexicon.NUMBERS)
    return Thing(noun=noun, modifiers=modifiers, number=number)


def draw_quality(rng: random.Random, words: Vocabulary, top: str) -> str:
    """A quality that things of the kind `top` have."""
    return rng.choice(words.qualities[rng.choice(lexicon.QUALITIES_OF[top])])


def with_modifier(modifiers: tuple[str, ...], added: str, top: str) -> tuple[str, ...]:
    """`modifiers` and one more in the order of speech; unchanged where its dimension is taken."""
    dimension = DIMENSION[top, added]
    if any(DIMENSION[top, modifier] == dimension for modifier in modifiers):
        return modifiers
    return tuple(sorted((*modifiers, added), key=lambda value: _COLOUR_LAST[DIMENSION[top, value]]))


def draw_frame(rng: random.Random, words: Vocabulary, extras: tuple[int, int] = (1, 2)) -> Frame:
    """Any event with so many (least, most) of place, day, hour and manner.

    Example:
        >>> draw_frame(random.Random(0), SEEN).verb in VERBS
        True
    """
    verb = VERBS[rng.choice(_VERBS)]
    agents = "person" if "person" in verb.agents and rng.random() < 0.8 else rng.choice(verb.agents)
    agent, patient = draw_thing(rng, words, agents), None
    if verb.patients:
        patient = draw_thing(rng, words, rng.choice(verb.patients), counted=True)
    while patient is not None and related(agent.noun, patient.noun):
        agent = draw_thing(rng, words, agents)
        patient = draw_thing(rng, words, rng.choice(verb.patients), counted=True)
    roles = draw_extras(rng, rng.randint(*extras), manner=verb.name not in MANNERLESS)
    return Frame(agent=agent, verb=verb.name, patient=patient, **roles)  # type: ignore[arg-type]


def draw_extras(rng: random.Random, count: int, *, manner: bool) -> dict[str, str]:
    """Up to `count` roles of place, day, hour and perhaps manner, filled."""
    roles = rng.sample(("place", "place", "day", "hour", *(("manner",) if manner else ())), count)
    return {role: draw_extra(rng, role) for role in roles}


def draw_extra(rng: random.Random, role: str) -> str:
    """What fills one role."""
    if role == "hour":
        return rng.choice(lexicon.HOURS)
    if role == "manner":
        return rng.choice(tuple(lexicon.OPPOSITE_MANNER))
    table = lexicon.PLACES if role == "place" else lexicon.DAYS
    kind = rng.choice(tuple(table))
    return kind if rng.random() < 0.2 else rng.choice(table[kind])


def related(one: str, other: str) -> bool:
    """Whether one noun is the other or a kind of it."""
    return one in ancestors(other) or other in ancestors(one)


def ancestors(noun: str) -> tuple[str, ...]:
    """A noun and all it is a kind of, from the nearest.

    Example:
        >>> ancestors("poodle"), ancestors("maria")
        (('poodle', 'dog', 'animal'), ('maria', 'person'))
    """
    if noun in NAME_SET:
        return (noun, "person")
    chain = [noun]
    while chain[-1] in PARENT:
        chain.append(PARENT[chain[-1]])
    return tuple(chain)
