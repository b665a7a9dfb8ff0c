"""Pairs of a question and a sentence that may answer it: the makings of "qnli".

A sentence tells of one event or two. Where it does not answer, it is about the same people and things: it
leaves the asked role open and fills another, or only the other event has it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pituning.mini20 import lexicon
from pituning.mini20.edits import other_thing, reversible, swapped
from pituning.mini20.entailment import TWO_EVENTS
from pituning.mini20.frames import Frame, Thing, Vocabulary, draw_extra, draw_frame, with_modifier
from pituning.mini20.lexicon import TOP
from pituning.mini20.meaning import APART, EQUAL, LOOSE, action_relation, join, thing_relation, verb_relation
from pituning.mini20.questions import ASKED, answer_of, without


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A question's frame and role, and the events that a sentence tells."""

    asked: str
    about: Frame
    events: tuple[Frame, ...]
    answer: str


BARE = 0.75
"""How often a sentence that does not answer is of the very event, without the asked role."""

_OTHER_TELLS = {"yes": 0.4, "no": 0.75}
"""How often the other event has what is asked for, so that its mere presence tells little."""


def draw_asking(rng: random.Random, words: Vocabulary, answer: str) -> Asking:
    """A question and a sentence with the wanted answer, "yes" or "no"."""
    while True:
        asked = rng.choice(ASKED)
        about = _askable(asked, rng, words)
        if about is None:
            continue
        event = about if answer == "yes" else _unanswering(about, asked, rng, words)
        if event is None:
            continue
        events = [event]
        if rng.random() < TWO_EVENTS:
            other = _other_event(about, rng, words)
            if rng.random() < _OTHER_TELLS[answer]:
                other = _fill(other, asked, rng, words) or other
            events.insert(rng.randrange(2), other)
        if sum(answers(told, about, asked) for told in events) == (answer == "yes"):
            return Asking(asked=asked, about=about, events=tuple(events), answer=answer)


def answers(event: Frame, about: Frame, asked: str) -> bool:
    """Whether an event may be the one asked about, and fills the asked role."""
    if answer_of(event, asked) is None:
        return False
    told, wanted = without(event, asked), without(about, asked)
    agents = EQUAL if asked == "who" else thing_relation(told.agent, wanted.agent)
    same_verb = verb_relation(told.verb, wanted.verb) != LOOSE
    return same_verb and join(agents, action_relation(told, wanted)) != APART


def _askable(asked: str, rng: random.Random, words: Vocabulary) -> Frame | None:
    """An event of few words in which the asked role is filled."""
    frame = draw_frame(rng, words, (0, 0))
    if frame.patient is None or len(frame.agent.modifiers) + len(frame.patient.modifiers) > 1:
        return None
    if frame.patient.number != "one" and asked != "how many":
        return None
    return _fill(frame, asked, rng, words)


def _fill(frame: Frame, asked: str, rng: random.Random, words: Vocabulary) -> Frame | None:
    """The frame with the asked role told; None where it has no such role."""
    if asked == "where":
        return replace(frame, place=draw_extra(rng, "place"))
    if asked == "when":
        if rng.random() < 0.5:
            return replace(frame, hour=draw_extra(rng, "hour"))
        return replace(frame, day=draw_extra(rng, "day"))
    if asked == "who":
        return frame if TOP[frame.agent.noun] == "person" else None
    patient = frame.patient
    if patient is None or patient.noun in lexicon.NAME_SET:
        return None
    if asked == "how many":
        return replace(frame, patient=replace(patient, number=rng.choice(lexicon.NUMBERS)))
    if "colour" not in lexicon.QUALITIES_OF[TOP[patient.noun]]:
        return None
    colour = rng.choice(words.qualities["colour"])
    kept = tuple(word for word in patient.modifiers if word not in lexicon.QUALITIES["colour"])
    return replace(frame, patient=replace(patient, modifiers=with_modifier(kept, colour, TOP[patient.noun])))


def _other_event(about: Frame, rng: random.Random, words: Vocabulary) -> Frame:
    """Another event with a thing or person of the first, or of its verb."""
    other = draw_frame(rng, words, (0, 1))
    while other.agent.noun == about.agent.noun or len(other.agent.modifiers) > 1:
        other = draw_frame(rng, words, (0, 1))
    if rng.random() < 0.5:
        return replace(other, verb=about.verb, patient=about.patient, agent=_agent_like(about, rng, words))
    return other


def _agent_like(about: Frame, rng: random.Random, words: Vocabulary) -> Thing:
    """Somebody else of the sort that did it."""
    assert about.patient is not None
    while True:
        other = other_thing(about.agent, rng, words) or Thing(noun=rng.choice(words.names))
        if other.noun not in (about.agent.noun, about.patient.noun):
            return other
        about = replace(about, agent=Thing(noun=rng.choice(words.names)))


def _unanswering(about: Frame, asked: str, rng: random.Random, words: Vocabulary) -> Frame | None:
    """The same event without the asked role (and with another), or the role told of another event."""
    patient = about.patient
    assert patient is not None
    if asked == "who":
        hidden = other_thing(patient, rng, words)
        if reversible(about):
            return swapped(about)
        return replace(about, patient=hidden) if hidden is not None else None
    if rng.random() < BARE:
        bare = without(about, asked)
        role = rng.choice([name for name in ("where", "when") if name != asked])
        return _fill(bare, role, rng, words)
    if reversible(about) and rng.random() < 0.5:
        return swapped(about)
    changed = other_thing(replace(patient, number="one", modifiers=()), rng, words)
    if changed is None or rng.random() < 0.5:
        return replace(about, agent=_agent_like(about, rng, words))
    return replace(about, patient=replace(patient, noun=changed.noun))
