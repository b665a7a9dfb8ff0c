"""Plain text for pre-training: sentences, definitions and simple questions, without any task's labels.

What overlaps with the language tasks of `mini20`: the grammar, the verbs, places, times and numbers, and
all words that are not in `lexicon.HELD_OUT`. Sentences are drawn from the frames from which the training
splits draw too, so single sentences may recur there (one in millions); pairs of sentences and their labels
do not. Definitions state the kinds that entailment needs ("a poodle is a kind of dog"), held-out nouns too
unless asked otherwise: that is the only place where pre-training meets them. Attribute questions are of the
words and shapes of qnli's and qqp's, but are answered in words, of one sentence that contains the answer.
Opinions, judging adjectives, synonymy and paraphrase are in none of these.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pituning.mini20.frames import SEEN, Frame, Thing, draw_frame
from pituning.mini20.grammar import Wording, phrase, sentence, thing
from pituning.mini20.lexicon import HELD_OUT, PARENT
from pituning.mini20.questions import ASKED, answer_of, question

_DEFINED = tuple(PARENT)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A sentence, a question about it and the answer in words."""

    text: str
    question: str
    answer: str


def random_sentence(rng: random.Random) -> str:
    """Any event in words, without held-out words.

    Example:
        >>> len(random_sentence(random.Random(0)).split()) > 3
        True
    """
    while True:
        frame = replace(draw_frame(rng, SEEN), negated=rng.random() < 0.15)
        if not frame.negated and rng.random() < 0.1 and frame.agent.noun not in SEEN.names:
            quantifier = rng.choice(("all", "some", "no"))
            frame = replace(frame, agent=replace(frame.agent, quantifier=quantifier))
        text = sentence(frame, Wording(rng=rng))
        if 4 <= len(text.split()) <= 18:
            return text


def definition_sentence(rng: random.Random, *, held_out: bool = True) -> str:
    """What something is a kind of; `held_out` says whether held-out nouns are defined too.

    Example:
        >>> " is a kind of " in definition_sentence(random.Random(0))
        True
    """
    noun = rng.choice(_DEFINED)
    while not held_out and noun in HELD_OUT:
        noun = rng.choice(_DEFINED)
    wording = Wording(rng=rng)
    kind = thing(Thing(noun=PARENT[noun]), wording, "").strip()
    return f"{thing(Thing(noun=noun), wording, 'a')} is a kind of {kind}"


def attribute_question(rng: random.Random) -> Reading:
    """A sentence and a question (who, where, when, how many, what colour) that it answers.

    Example:
        >>> found = attribute_question(random.Random(0))
        >>> found.answer in found.text
        True
    """
    while True:
        frame = draw_frame(rng, SEEN)
        asked = [word for word in ASKED if answer_of(frame, word) is not None]
        if not asked:
            continue
        word = rng.choice(asked)
        wording = Wording(rng=rng)
        said = Reading(
            text=sentence(frame, wording),
            question=question(frame, word, wording),
            answer=_answer(frame, word, wording),
        )
        if len(said.text.split()) <= 18 and said.answer in said.text:
            return said


def _answer(frame: Frame, asked: str, wording: Wording) -> str:
    """The role's filler as the sentence words it."""
    value = str(answer_of(frame, asked))
    if asked == "who":
        return thing(frame.agent, wording, "the")
    return phrase("place" if asked == "where" else "day", value, wording)
