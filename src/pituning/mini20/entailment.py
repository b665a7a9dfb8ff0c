"""Pairs of a premise and a hypothesis, told from frames: the makings of "mnli" and "rte".

The hypothesis is drawn first, without regard to the answer, so that it alone tells nothing; the premise is
made from it by edits until the answer is the wanted one. Every kind of edit (a word exchanged, something
added, something left out) happens for every answer, but not as often: the tests say how much the mere overlap
of words tells.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pituning.mini20.edits import SLOTS, narrowed, opposed, widened
from pituning.mini20.frames import Frame, Vocabulary, draw_frame
from pituning.mini20.lexicon import NAME_SET
from pituning.mini20.meaning import follows

QUANTIFIED, NEGATED = 0.05, 0.15
"""About how many pairs of three-way inference speak of all, some or none of a kind, and have a denial."""

TWO_EVENTS = 0.2
"""How likely a premise of two-way inference tells another event too."""

_TRIES = 12
_QUANTIFIERS = ("all", "some", "no")
_ACTIONS = tuple(slot for slot in SLOTS if slot != "agent")

# answer -> (edit, premise negated, hypothesis negated): within an answer the negations of either text are as
# frequent as within another, so that "not" alone tells little
_NEGATED = {
    "yes": (("wide", True, True), ("wide", True, True), ("apart", False, True), ("narrow", False, False)),
    "no": (("wide", True, False), ("wide", True, False), ("narrow", False, True), ("narrow", False, True)),
    "maybe": (("wide", False, True), ("narrow", True, True), ("apart", True, False), ("wide", False, False)),
}
_PLAIN = {"yes": "narrow", "no": "apart", "maybe": "wide"}


@dataclass(frozen=True, kw_only=True)
class Implication:
    """Frames of two texts; the premise may tell a second event too.

    Attributes:
        answer: "yes" (the hypothesis follows), "no" or "maybe"; of two answers "no" is all but "yes".
    """

    premise: Frame
    hypothesis: Frame
    answer: str
    other: Frame | None = None


def draw_three_way(rng: random.Random, words: Vocabulary, answer: str) -> Implication:
    """A pair with the wanted answer of yes, no and maybe."""
    while True:
        hypothesis = draw_frame(rng, words)
        style = rng.random()
        if style < QUANTIFIED and hypothesis.agent.noun not in NAME_SET:
            premise = _quantified_premise(hypothesis, rng, words, answer)
        elif style < QUANTIFIED + NEGATED:
            premise = _negated_premise(hypothesis, rng, words, answer)
        else:
            made = _edited(hypothesis, _PLAIN[answer], rng, words)
            premise = (made, hypothesis) if follows(made, hypothesis) == answer else None
        if premise is not None:
            return Implication(premise=premise[0], hypothesis=premise[1], answer=answer)


def _edited(frame: Frame, edit: str, rng: random.Random, words: Vocabulary) -> Frame:
    """One edit of the kind, and up to two additions, which can change its kind."""
    if edit == "narrow":
        made = narrowed(frame, rng, words) if rng.random() < 0.75 else frame
    else:
        made = widened(frame, rng) if edit == "wide" else opposed(frame, rng, words)
    return narrowed(made, rng, words) if rng.random() < 0.5 else made


def _negated_premise(
    frame: Frame, rng: random.Random, words: Vocabulary, answer: str
) -> tuple[Frame, Frame] | None:
    """Premise and hypothesis of which one or both are denied."""
    edit, first, second = rng.choice(_NEGATED[answer])
    hypothesis = replace(frame, negated=second)
    for _ in range(_TRIES):
        made = widened(frame, rng) if edit == "wide" else _edited(frame, edit, rng, words)
        premise = replace(made, negated=first)
        if follows(premise, hypothesis) == answer:
            return premise, hypothesis
    return None


def _quantified_premise(
    frame: Frame, rng: random.Random, words: Vocabulary, answer: str
) -> tuple[Frame, Frame] | None:
    """Premise and hypothesis about all, some or none of a kind."""
    hypothesis = _quantify(frame, rng.choice(_QUANTIFIERS))
    for _ in range(_TRIES):
        made = _quantify(frame, rng.choice(_QUANTIFIERS))
        if rng.random() < 0.6:
            of_agents = narrowed if rng.random() < 0.5 else None
            made = narrowed(made, rng, words, ("agent",)) if of_agents else widened(made, rng, ("agent",))
        action = rng.choice(("same", "narrow", "wide", "apart"))
        if action == "narrow":
            made = narrowed(made, rng, words, _ACTIONS)
        elif action == "wide":
            made = widened(made, rng, _ACTIONS)
        elif action == "apart":
            made = opposed(made, rng, words, _ACTIONS)
        if follows(made, hypothesis) == answer:
            return made, hypothesis
    return None


def _quantify(frame: Frame, quantifier: str) -> Frame:
    return replace(frame, agent=replace(frame.agent, quantifier=quantifier))


def draw_two_way(rng: random.Random, words: Vocabulary, answer: str) -> Implication:
    """A premise of one event or two, and a hypothesis about one of them, or (for "no") a blend of both."""
    while True:
        hypothesis = draw_frame(rng, words)
        kind = "narrow" if answer == "yes" else rng.choice(("wide", "apart", "apart", "apart"))
        premise = (
            hypothesis if kind == "narrow" and rng.random() < 0.4 else _edited(hypothesis, kind, rng, words)
        )
        other = draw_frame(rng, words, (1, 1)) if rng.random() < TWO_EVENTS else None
        if other is not None and rng.random() < 0.5:
            other = replace(other, verb=hypothesis.verb, patient=hypothesis.patient)
        if other is not None and answer == "no" and rng.random() < 0.35:
            premise, other = _blended(hypothesis, other)
        if other is not None and not _told_apart(premise, other):
            continue
        told = [premise] if other is None else [premise, other]
        if ("yes" in (follows(event, hypothesis) for event in told)) == (answer == "yes"):
            return Implication(premise=premise, hypothesis=hypothesis, answer=answer, other=other)


def _blended(frame: Frame, other: Frame) -> tuple[Frame, Frame]:
    """The agents of two events exchanged: all words of the hypothesis are there, in the wrong event."""
    return replace(frame, agent=other.agent), replace(other, agent=frame.agent)


def _told_apart(one: Frame, other: Frame) -> bool:
    """Whether two events have different agents, and fit into one sentence."""
    return one.agent.noun != other.agent.noun and len(one.agent.modifiers + other.agent.modifiers) < 3
