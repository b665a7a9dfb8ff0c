"""Whether one frame follows from another: the relations of natural logic (MacCartney & Manning, 2009).

Each role of a premise is as wide as (EQUAL), narrower (NARROWER), wider (WIDER) than or incompatible
(APART) with the same role of a hypothesis, or none of these (LOOSE). Roles join to a relation of the
events; negation and quantifiers turn it into yes (follows), no (cannot be) or maybe.
"""

from __future__ import annotations

from pituning.mini20 import lexicon
from pituning.mini20.frames import Frame, Thing, ancestors
from pituning.mini20.lexicon import DIMENSION, TOP
from pituning.mini20.verbs import VERBS

EQUAL, NARROWER, WIDER, APART, LOOSE = "equal", "narrower", "wider", "apart", "loose"

_WITHIN = (EQUAL, NARROWER)
_AROUND = (EQUAL, WIDER)
_MEETING = (EQUAL, NARROWER, WIDER)


def join(*relations: str) -> str:
    """The relation of two wholes from those of their parts.

    Example:
        >>> join(EQUAL, NARROWER), join(WIDER, NARROWER), join(WIDER, APART)
        ('narrower', 'loose', 'apart')
    """
    kinds = set(relations) - {EQUAL}
    if APART in kinds:
        return APART
    if not kinds:
        return EQUAL
    return kinds.pop() if len(kinds) == 1 else LOOSE


def follows(premise: Frame, hypothesis: Frame) -> str:
    """Does the hypothesis follow: "yes", "no" (it cannot be) or "maybe"."""
    things = thing_relation(premise.agent, hypothesis.agent)
    rest = action_relation(premise, hypothesis)
    if premise.agent.quantifier or hypothesis.agent.quantifier:
        return _quantified(premise.agent.quantifier, hypothesis.agent.quantifier, things, rest)
    return _POLARITY[premise.negated, hypothesis.negated].get(join(things, rest), "maybe")


_POLARITY = {
    (False, False): {EQUAL: "yes", NARROWER: "yes", APART: "no"},
    (False, True): {EQUAL: "no", NARROWER: "no", APART: "yes"},
    (True, False): {EQUAL: "no", WIDER: "no"},
    (True, True): {EQUAL: "yes", WIDER: "yes"},
}


def _quantified(one: str, other: str, things: str, actions: str) -> str:
    """One (all, some, no) of the things did it: did the other; every kind named has members."""
    shared, within, around = things in _MEETING, things in _WITHIN, things in _AROUND
    did, only = actions in _WITHIN, actions in _AROUND
    yes = {
        ("all", "all"): around and did,
        ("some", "some"): within and did,
        ("no", "no"): around and only,
        ("all", "some"): shared and did,
        ("all", "no"): around and actions == APART,
    }
    no = {
        ("all", "all"): shared and actions == APART,
        ("all", "some"): around and actions == APART,
        ("some", "all"): within and actions == APART,
        ("all", "no"): shared and did,
        ("no", "all"): shared and only,
        ("some", "no"): within and did,
        ("no", "some"): around and only,
    }
    if yes.get((one, other), False):
        return "yes"
    return "no" if no.get((one, other), False) else "maybe"


def thing_relation(one: Thing, other: Thing) -> str:
    """Of two things: kind, number and qualities."""
    return join(
        noun_relation(one.noun, other.noun),
        _number_relation(one.number, other.number),
        _qualities(one, other),
    )


def noun_relation(one: str, other: str) -> str:
    """Of two kinds or names."""
    if one == other:
        return EQUAL
    if other in ancestors(one):
        return NARROWER
    return WIDER if one in ancestors(other) else APART


def _number_relation(one: str, other: str) -> str:
    if one == other:
        return EQUAL
    if other == lexicon.SEVERAL and one in lexicon.MANY:
        return NARROWER
    return WIDER if one == lexicon.SEVERAL and other in lexicon.MANY else APART


def _qualities(one: Thing, other: Thing) -> str:
    mine, yours = ({DIMENSION[TOP[t.noun], m]: m for m in t.modifiers} for t in (one, other))
    if not mine and not yours:
        return EQUAL
    return join(*(_open_relation(mine.get(name), yours.get(name)) for name in mine | yours))


def _open_relation(one: str | None, other: str | None, kinds: dict[str, str] | None = None) -> str:
    """Of two fillers of which None means any, and a kind all its members."""
    if one == other:
        return EQUAL
    if other is None or (kinds and one and kinds.get(one) == other):
        return NARROWER
    if one is None or (kinds and kinds.get(other) == one):
        return WIDER
    return APART


def action_relation(one: Frame, other: Frame) -> str:
    """Of what was done, to whom, where, when and how; the agents and the negations left out."""
    patients = EQUAL
    if one.patient is not None and other.patient is not None:
        patients = thing_relation(one.patient, other.patient)
    manner = _open_relation(one.manner, other.manner)
    if manner == APART and lexicon.OPPOSITE_MANNER[str(one.manner)] != other.manner:
        manner = LOOSE
    return join(
        verb_relation(one.verb, other.verb),
        patients,
        manner,
        _open_relation(one.place, other.place, lexicon.PLACE_KIND),
        _open_relation(one.day, other.day, lexicon.DAY_KIND),
        _open_relation(one.hour, other.hour),
    )


def verb_relation(one: str, other: str) -> str:
    """Of two verbs: a way of doing the other, its opposite, or neither."""
    if one == other:
        return EQUAL
    if VERBS[one].kind == other:
        return NARROWER
    if VERBS[other].kind == one:
        return WIDER
    return APART if VERBS[one].opposite == other else LOOSE
