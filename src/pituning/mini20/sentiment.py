"""Opinions of films, meals and hotels: the makings of "sst2".

An opinion praises or blames an aspect, plainly or by denying the contrary; of two clauses the last counts
after "but", and the one without "although" otherwise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_GOOD = """wonderful brilliant delightful charming superb excellent lovely impressive pleasant splendid fine
good memorable marvellous enjoyable great | exquisite terrific fabulous"""
_BAD = """awful dreadful terrible boring disappointing horrible poor bad unpleasant dismal tedious mediocre
forgettable miserable annoying shabby | atrocious ghastly lousy"""

ASPECTS = {
    "film": "film movie plot story script acting ending soundtrack dialogue photography comedy thriller",
    "meal": "meal dinner soup dessert sauce service menu steak salad wine lunch breakfast",
    "hotel": "hotel room lobby staff view pool breakfast bed bathroom location balcony garden",
}
_UNCOUNTED = frozenset(("acting", "dialogue", "photography", "staff", "service"))
_DEGREES = ("", "", "really ", "rather ", "truly ", "quite ", "so ")
_DENIALS = ("not", "never", "hardly", "far from", "anything but")
_OPENINGS = (
    "",
    "",
    "overall, ",
    "in my opinion, ",
    "to be honest, ",
    "on the whole, ",
    "i think ",
    "we felt that ",
)
_CLOSINGS = ("", "", " once again", " this time", " this year", " by any standard", " as ever")
_VERDICTS = {
    "positive": ("i would gladly come back", "we left happy", "it deserves praise", "i recommend it warmly"),
    "negative": (
        "i would never come back",
        "we left unhappy",
        "it deserves no praise",
        "i cannot recommend it",
    ),
}


def _sides(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    seen, _, unseen = text.partition("|")
    return (*seen.split(), *unseen.split()), frozenset(unseen.split())


_good, _good_held = _sides(_GOOD)
_bad, _bad_held = _sides(_BAD)
FEELING = {"positive": _good, "negative": _bad}
HELD_OUT_FEELINGS = _good_held | _bad_held
"""Adjectives of test splits alone: about 15 % of those that judge."""
CONTRARY = {"positive": "negative", "negative": "positive"}
_SEEN = {
    side: tuple(word for word in words if word not in HELD_OUT_FEELINGS) for side, words in FEELING.items()
}


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One judgement: `word` is said of the aspect, or denied."""

    aspect: str
    word: str
    denied: bool

    @property
    def side(self) -> str:
        """positive or negative."""
        said = "positive" if self.word in FEELING["positive"] else "negative"
        return CONTRARY[said] if self.denied else said


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """One or two judgements; `link` joins them: "but" (the second counts), "although" (it yields), "and"."""

    first: Clause
    second: Clause | None = None
    link: str = ""

    @property
    def side(self) -> str:
        """positive or negative, of the whole."""
        return self.second.side if self.second is not None and self.link == "but" else self.first.side


def draw_opinion(rng: random.Random, side: str, *, held_out: bool) -> Opinion:
    """An opinion of the wanted side, of one domain."""
    aspects = ASPECTS[rng.choice(tuple(ASPECTS))].split()
    one, two = rng.sample(aspects, 2)
    way = rng.random()
    if way < 0.5:
        return Opinion(first=_clause(rng, one, side, held_out))
    link = rng.choice(("but", "although", "but", "although", "and"))
    same = _clause(rng, one, side, held_out)
    other = _clause(rng, two, side if link == "and" else CONTRARY[side], held_out)
    first, second = (other, same) if link == "but" else (same, other)
    return Opinion(first=first, second=second, link=link)


def _clause(rng: random.Random, aspect: str, side: str, held_out: bool) -> Clause:
    denied = rng.random() < 0.3
    words = (FEELING if held_out else _SEEN)[CONTRARY[side] if denied else side]
    return Clause(aspect=aspect, word=rng.choice(words), denied=denied)


def opinion_text(opinion: Opinion, rng: random.Random) -> str:
    """The opinion in words."""
    first = _said(opinion.first, rng)
    if opinion.second is None:
        if rng.random() < 0.2:
            return f"{first} and {rng.choice(_VERDICTS[opinion.side])}"
        return rng.choice(_OPENINGS) + first + rng.choice(_CLOSINGS)
    second = _said(opinion.second, rng)
    if opinion.link != "although":
        return f"{rng.choice(_OPENINGS)}{first}{',' if opinion.link == 'but' else ''} {opinion.link} {second}"
    word = rng.choice(("although", "even though", "though"))
    return f"{word} {second}, {first}" if rng.random() < 0.5 else f"{first}, {word} {second}"


def _said(clause: Clause, rng: random.Random) -> str:
    if not clause.denied:
        return f"the {clause.aspect} was {rng.choice(_DEGREES)}{clause.word}"
    denial = rng.choice(_DENIALS)
    if denial == "not" and clause.aspect not in _UNCOUNTED and rng.random() < 0.5:
        article = "an" if clause.word[0] in "aeiou" else "a"
        return f"this was not {article} {clause.word} {clause.aspect}"
    return f"the {clause.aspect} was {denial} {clause.word}"
