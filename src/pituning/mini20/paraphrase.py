"""Pairs of texts that mean the same or not: the makings of "qqp" (questions) and "mrpc" (sentences).

Both frames are the same for "yes". For "no" one filler is another, agent and patient change places, or one
text is denied; the wording of the rest changes less then, so that the overlap of words tells less.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pituning.mini20.edits import narrowed, opposed, widened
from pituning.mini20.frames import Frame, Vocabulary, draw_frame
from pituning.mini20.questions import ASKED, answer_of, without

CHANGE = {"yes": 0.4, "no": 0.15}
"""How likely a word that has synonyms is worded otherwise in the second text."""


@dataclass(frozen=True, kw_only=True)
class Paraphrase:
    """Frames of two texts; `asked` is the question word of either, "" for sentences."""

    one: Frame
    other: Frame
    answer: str
    asked: tuple[str, str] = ("", "")


def draw_sentences(rng: random.Random, words: Vocabulary, answer: str) -> Paraphrase:
    """Two sentences that mean the same ("yes") or not ("no")."""
    frame = replace(draw_frame(rng, words), negated=rng.random() < 0.25)
    other = frame if answer == "yes" else _changed(frame, rng, words)
    return Paraphrase(one=frame, other=other, answer=answer)


def draw_questions(rng: random.Random, words: Vocabulary, answer: str) -> Paraphrase:
    """Two questions that ask the same ("yes") or not ("no")."""
    while True:
        frame = draw_frame(rng, words)
        asked = [word for word in ASKED if answer_of(frame, word) is not None]
        if not asked:
            continue
        word = rng.choice(asked)
        if answer == "yes":
            return Paraphrase(one=frame, other=frame, answer=answer, asked=(word, word))
        if len(asked) > 1 and rng.random() < 0.1:
            second = rng.choice([other for other in asked if other != word])
            return Paraphrase(one=frame, other=frame, answer=answer, asked=(word, second))
        other = _changed(frame, rng, words)
        if answer_of(other, word) is not None and asks(frame, word) != asks(other, word):
            return Paraphrase(one=frame, other=other, answer=answer, asked=(word, word))


def asks(frame: Frame, word: str) -> Frame:
    """What a question says of its event: all but what it asks for."""
    if word == "who":
        return replace(frame, agent=replace(frame.agent, noun="person", modifiers=()))
    return without(frame, word)


def _changed(frame: Frame, rng: random.Random, words: Vocabulary) -> Frame:
    """A frame with one thing changed: an exchange mostly, sometimes more, less or the contrary."""
    while True:
        way = rng.random()
        if way < 0.7:
            other = opposed(frame, rng, words)
        elif way < 0.85:
            other = narrowed(frame, rng, words)
        else:
            other = widened(frame, rng)
        if other != frame:
            return other
