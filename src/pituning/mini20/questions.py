"""Questions about one role of a frame: who, where, when, how many, what colour."""

from __future__ import annotations

import random
from dataclasses import replace

from pituning.mini20 import lexicon
from pituning.mini20.frames import Frame
from pituning.mini20.grammar import Wording, be_of, phrase, subject, thing
from pituning.mini20.lexicon import TOP
from pituning.mini20.verbs import VERBS, participle, past

ASKED = ("who", "where", "when", "how many", "what colour")
_ASKING = {
    "where": ("where", "in what place"),
    "when": ("when", "at what time"),
}


def answer_of(frame: Frame, asked: str) -> str | None:
    """The concept that answers the question word, or None where the frame leaves it open.

    Example:
        >>> from pituning.mini20.frames import Thing
        >>> kite = Thing(noun="kite", modifiers=("red",))
    >>> told = Frame(agent=Thing(noun="maria"), verb="buy", patient=kite)
        >>> answer_of(told, "what colour"), answer_of(told, "where")
        ('red', None)
    """
    patient = frame.patient
    if asked == "who":
        return frame.agent.noun if TOP[frame.agent.noun] == "person" else None
    if asked == "where":
        return frame.place
    if asked == "when":
        return frame.day or frame.hour
    if patient is None:
        return None
    if asked == "how many":
        return patient.number if patient.number in lexicon.NUMBERS else None
    return next((word for word in patient.modifiers if word in lexicon.QUALITIES["colour"]), None)


def without(frame: Frame, asked: str) -> Frame:
    """The frame with what the question asks for left open; of "who" nothing is."""
    if asked == "where":
        return replace(frame, place=None)
    if asked == "when":
        return replace(frame, day=None, hour=None)
    if asked == "what colour" and frame.patient is not None:
        colours = lexicon.QUALITIES["colour"]
        left = tuple(word for word in frame.patient.modifiers if word not in colours)
        return replace(frame, patient=replace(frame.patient, modifiers=left))
    if asked == "how many" and frame.patient is not None:
        return replace(frame, patient=replace(frame.patient, number="one"))
    return frame


def draw_passive(rng: random.Random) -> bool:
    """Whether a question is asked in the passive, where it can be."""
    return rng.random() < 0.35


def question(frame: Frame, asked: str, wording: Wording, *, passive: bool | None = None) -> str:
    """A question for one role of a frame, which gives away the others; `passive` is drawn unless given.

    Example:
        >>> from pituning.mini20.frames import Thing
        >>> told = Frame(agent=Thing(noun="maria"), verb="find", patient=Thing(noun="doll"), place="park")
        >>> question(told, "who", Wording(rng=random.Random(0)))
        'by whom was the doll discovered in the park?'
    """
    open_frame = without(frame, asked)
    lemma = wording.word("verb:" + frame.verb, VERBS[frame.verb].words)
    extras = [phrase(role, value, wording) for role, value in _extras(open_frame)]
    manner = wording.word(frame.manner) if frame.manner else ""
    doer = subject(frame.agent, wording)
    done_to = thing(open_frame.patient, wording, "the") if open_frame.patient else ""
    passive = draw_passive(wording.rng) if passive is None else passive
    passive = passive and open_frame.patient is not None
    be = be_of(open_frame.patient) if open_frame.patient else ""
    if asked == "who":
        parts = _who(lemma, done_to, be, wording) if passive else ["who", past(lemma), done_to]
    elif asked == "what colour":
        parts = ["what colour", be, done_to, "that", doer, past(lemma)]
        if passive:
            parts = ["what colour", be, done_to, "that", be, participle(lemma), "by", doer]
    elif asked == "how many":
        parts = _how_many(open_frame, wording, doer, lemma, passive=passive)
    else:
        word = wording.word(asked, _ASKING[asked])
        parts = [word, "did", doer, lemma, done_to]
        if passive:
            parts = [word, be, done_to, participle(lemma), "by", doer]
    said = " ".join(part for part in (*parts, manner, *extras) if part)
    return said.replace("_", " ") + "?"


def _who(lemma: str, done_to: str, be: str, wording: Wording) -> list[str]:
    """Two ways to ask for the agent with the patient first."""
    if wording.rng.random() < 0.5:
        return ["who was it that", past(lemma), done_to]
    return ["by whom", be, done_to, participle(lemma)]


def _how_many(frame: Frame, wording: Wording, doer: str, lemma: str, *, passive: bool) -> list[str]:
    assert frame.patient is not None
    many = thing(replace(frame.patient, number="two"), wording, "").removeprefix("two ")
    if passive:
        return ["how many", many, "were", participle(lemma), "by", doer]
    return ["how many", many, "did", doer, lemma]


def _extras(frame: Frame) -> list[tuple[str, str]]:
    said = (("place", frame.place), ("day", frame.day), ("hour", frame.hour))
    return [(role, value) for role, value in said if value]
