"""Opinions of people who serve, of places and of food: the makings of "sst2".

An opinion praises or blames an aspect, plainly or by denying the contrary; of two clauses the last counts
after "but", and the one without "although" otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

_SERVICE = """
waiter owner cook porter driver guide baker musician barber nurse
polite cheerful clever smart skilled careful calm happy | courteous
rude furious foolish silly careless reckless slow unhappy | impolite
"""
_PLACE = """
hotel room lobby kitchen bedroom garden museum library shop table
clean fine good quiet sturdy | spotless
dirty bad damp loud broken | filthy
"""
_FOOD = """
meal soup dessert salad menu bread fruit coffee dinner cake
fresh sweet good fine cheap hot | tasty
rotten bad poor cold expensive dry | stale
"""

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
CONTRARY = {"positive": "negative", "negative": "positive"}


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What opinions are of, and the adjectives that judge it, by side."""

    aspects: tuple[str, ...]
    seen: Mapping[str, tuple[str, ...]]
    held_out: Mapping[str, tuple[str, ...]]


def _domain(table: str) -> Domain:
    aspects, *rows = table.strip().splitlines()
    seen, held_out = zip(*(row.split("|") for row in rows), strict=True)
    return Domain(aspects=tuple(aspects.split()), seen=_by_side(seen), held_out=_by_side(held_out))


def _by_side(rows: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {side: tuple(row.split()) for side, row in zip(CONTRARY, rows, strict=True)}


DOMAINS = tuple(map(_domain, (_SERVICE, _PLACE, _FOOD)))
FEELING = {
    side: frozenset(word for domain in DOMAINS for word in (*domain.seen[side], *domain.held_out[side]))
    for side in CONTRARY
}
HELD_OUT_FEELINGS = frozenset(
    chain.from_iterable(words for domain in DOMAINS for words in domain.held_out.values())
)
"""Adjectives that judge in test splits alone: about 15 %. Most are other words for some that training has."""


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
    domain = rng.choice(DOMAINS)
    one, two = rng.sample(domain.aspects, 2)
    if rng.random() < 0.5:
        return Opinion(first=_clause(rng, domain, one, side, held_out))
    link = rng.choice(("but", "although", "but", "although", "and"))
    same = _clause(rng, domain, one, side, held_out)
    other = _clause(rng, domain, two, side if link == "and" else CONTRARY[side], held_out)
    first, second = (other, same) if link == "but" else (same, other)
    return Opinion(first=first, second=second, link=link)


def _clause(rng: random.Random, domain: Domain, aspect: str, side: str, held_out: bool) -> Clause:
    denied = rng.random() < 0.3
    said = CONTRARY[side] if denied else side
    words = (*domain.seen[said], *(domain.held_out[said] if held_out else ()))
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
    if denial == "not" and clause.aspect not in ("bread", "fruit", "coffee") and rng.random() < 0.5:
        article = "an" if clause.word[0] in "aeiou" else "a"
        return f"this was not {article} {clause.word} {clause.aspect}"
    return f"the {clause.aspect} was {denial} {clause.word}"
