"""Words for things: noun phrases, which things they fit, relations between things, captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from random import Random

from pituning.mini20.scenes import ATTRIBUTES, Look, Scene, Thing, World

GAP = 6
"""Pixels by which a relation or an extreme must be clear: half a small thing."""

HELD_OUT_WORDS = {
    "disc": "circle",
    "tiny": "small",
    "huge": "large",
    "spotted": "dotted",
    "violet": "purple",
}
"""Words of test texts alone, and what they stand for. Captions have none: nobody could guess which to say."""

_RARE = {usual: rare for rare, usual in HELD_OUT_WORDS.items()}

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PATTERN_WORDS = {"plain": "plain", "striped": "striped", "dotted": "dotted", "hollow": "hollow"}
PATTERN_TAILS = {"striped": "with stripes", "dotted": "with dots"}
NOUNS = ("thing", "shape", "one")

RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """What a noun phrase says; None is left unsaid."""

    shape: str | None = None
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None

    def fits(self, look: Look) -> bool:
        """Whether everything said is true of `look`.

        Example:
            >>> Phrase(colour="red").fits(Look(shape="star", colour="red", pattern="plain", size="small"))
            True
        """
        return all(said in (None, getattr(look, name)) for name, said in vars(self).items())

    def those(self, scene: Scene) -> list[Thing]:
        """The things of the scene that it fits."""
        return [thing for thing in scene.things if self.fits(thing.look)]

    def complete(self, rng: Random, world: World) -> Look:
        """A look that it fits; what is unsaid is random."""
        while True:
            look = Look(**{name: getattr(self, name) or rng.choice(v) for name, v in ATTRIBUTES.items()})
            if world.held_out or not look.held_out:
                return look


def about(look: Look, names: Sequence[str]) -> Phrase:
    """The phrase that says these attributes of `look`."""
    return Phrase(**{name: getattr(look, name) for name in names})


def phrases_of(look: Look, fewest: int = 1, most: int = 4) -> Iterator[Phrase]:
    """Every phrase of so many attributes that fits, those of few first."""
    for number in range(fewest, most + 1):
        for names in combinations(ATTRIBUTES, number):
            yield about(look, names)


def unique_phrases(scene: Scene, thing: Thing) -> list[Phrase]:
    """The phrases that fit this thing alone and of which no word can be spared."""
    found: list[Phrase] = []
    for phrase in phrases_of(thing.look):
        if len(phrase.those(scene)) == 1 and not any(_says_more(phrase, less) for less in found):
            found.append(phrase)
    return found


def _says_more(phrase: Phrase, less: Phrase) -> bool:
    return all(said in (None, getattr(phrase, name)) for name, said in vars(less).items())


def noun_phrase(phrase: Phrase, rng: Random, *, plural: bool = False, nouns: Sequence[str] = NOUNS) -> str:
    """The words without an article, as "small striped red circle" or "red things with dots".

    `nouns` are those for a phrase without a shape.
    """
    noun = phrase.shape or rng.choice(nouns)
    tail = ""
    words = [rng.choice(SIZE_WORDS[phrase.size])] if phrase.size else []
    if phrase.pattern in PATTERN_TAILS and rng.random() < 0.3:
        tail = " " + PATTERN_TAILS[phrase.pattern]
    elif phrase.pattern:
        words.append(PATTERN_WORDS[phrase.pattern])
    words += [phrase.colour] if phrase.colour else []
    return " ".join([*words, plural_of(noun) if plural else noun]) + tail


def plural_of(noun: str) -> str:
    """The plural of a noun.

    Example:
        >>> plural_of("cross"), plural_of("star")
        ('crosses', 'stars')
    """
    return noun + ("es" if noun.endswith("s") else "s")


def with_article(words: str) -> str:
    """`words` behind "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def in_world(text: str, rng: Random, world: World) -> str:
    """`text`, some of its words replaced by rare ones of the same meaning.

    Example:
        >>> in_world("two small circles", Random(0), World(rare_words=1.0))
        'two tiny discs'
    """
    if not world.rare_words:
        return text

    def rare(match: re.Match[str]) -> str:
        usual, ending = match.groups()
        return (_RARE[usual] if rng.random() < world.rare_words else usual) + ending

    return re.sub(rf"\b({'|'.join(_RARE)})(s?)\b", rare, text)


def offset(one: Thing, relation: str, other: Thing) -> tuple[float, float]:
    """How far `one` is from `other` in the direction of `relation`, and across it, in pixels."""
    (x, y), (other_x, other_y) = one.patch.centre, other.patch.centre
    right, down = x - other_x, y - other_y
    along = {"left": -right, "right": right, "above": -down, "below": down}[relation]
    return along, abs(down if relation in ("left", "right") else right)


def holds(one: Thing, relation: str, other: Thing) -> bool | None:
    """Whether `one` is left of, right of, above or below `other`; None where people might disagree.

    True: by `GAP` and mainly in that direction. False: not in that direction at all.
    """
    along, across = offset(one, relation, other)
    if along >= max(GAP, across):
        return True
    return False if along <= 0 else None


def distance(one: Thing, other: Thing) -> float:
    """Pixels between the centres."""
    (x, y), (other_x, other_y) = one.patch.centre, other.patch.centre
    return sqrt((x - other_x) ** 2 + (y - other_y) ** 2)


def describe(thing: Thing | Look, rng: Random) -> str:
    """A noun phrase with an article that tells colour and shape, mostly size and pattern too.

    Example:
        >>> describe(Look(shape="star", colour="red", pattern="dotted", size="small"), Random(3))
        'a little dotted red star'
    """
    look = thing.look if isinstance(thing, Thing) else thing
    names = ["shape", "colour"]
    names += ["size"] if rng.random() < 0.7 else []
    names += ["pattern"] if look.pattern != "plain" and rng.random() < 0.8 else []
    return with_article(noun_phrase(about(look, names), rng))


def caption(scene: Scene, rng: Random, *, down: bool = False) -> str:
    """One caption of at most sixteen words, things from left to right; two are related where that is clear.

    With `down`, which pre-training does not show, things are told from top to bottom.

    One thing is told in full and two with some of their attributes; more of them by colour and shape, for
    COCO's captions have about a dozen words and OFA's answers at most sixteen tokens.
    """
    things = sorted(scene.things, key=lambda thing: thing.patch.centre[:: -1 if down else 1])
    if len(things) == 1:
        ground = "dark" if scene.background.dark else "light"
        where = rng.choice((f" on a {ground} background", f" in front of a {ground} background", ""))
        return rng.choice(("", "there is ")) + describe(things[0], rng) + where
    if len(things) == 2:
        first, second = things
        relations = ("above", "left", "right") if down else ("left", "above", "below")
        for relation in rng.sample(relations, 3):
            if holds(first, relation, second):
                words = f"{relation} of" if relation in ("left", "right") else RELATIONS[relation]
                return f"{describe(first, rng)} {words} {describe(second, rng)}"
        return f"{describe(first, rng)} and {describe(second, rng)}"
    return _listed(things, rng)


def _listed(things: Sequence[Thing], rng: Random) -> str:
    """ "two yellow squares a pink moon and a red star": equals together, each where its first one is."""
    groups: dict[Phrase, int] = {}
    names = ("shape", "colour", "size") if len(things) == 3 and rng.random() < 0.4 else ("shape", "colour")
    for thing in things:
        phrase = about(thing.look, names)
        groups[phrase] = groups.get(phrase, 0) + 1
    told = []
    for phrase, number in groups.items():
        words = noun_phrase(phrase, rng, plural=number > 1)
        told.append(f"{_NUMBERS[number]} {words}" if number > 1 else with_article(words))
    return " and ".join([" ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


_NUMBERS = ("no", "one", "two", "three", "four", "five")
