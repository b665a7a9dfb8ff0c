"""Sentences and questions that say what a frame means, each in several ways."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from pituning.mini20 import lexicon
from pituning.mini20.frames import Frame, Thing
from pituning.mini20.lexicon import NAME_SET, SYNONYMS
from pituning.mini20.verbs import VERBS, participle, past

_QUANTIFIED = {"all": ("every", "each", "all"), "some": ("some",), "no": ("no",)}
_ROLES = ("place", "day", "hour")


@dataclass(kw_only=True)
class Wording:
    """Which word stands for each concept, drawn once a text.

    Attributes:
        before: the words of another text of the pair.
        change: how likely a concept is worded otherwise than in `before`.
    """

    rng: random.Random
    before: dict[str, str] = field(default_factory=dict)
    change: float = 1.0
    words: dict[str, str] = field(default_factory=dict)

    def word(self, concept: str, choices: tuple[str, ...] | None = None) -> str:
        """The word for a concept."""
        if concept not in self.words:
            options = choices or SYNONYMS.get(concept) or (concept,)
            known = self.before.get(concept)
            if known is not None and self.rng.random() >= self.change:
                self.words[concept] = known
            else:
                fresh = [option for option in options if option != known]
                self.words[concept] = self.rng.choice(fresh or options)
        return self.words[concept]


@dataclass(frozen=True, kw_only=True)
class Form:
    """Passive, cleft ("it was ... who"), what comes first, where the manner stands, order of the rest."""

    passive: bool = False
    cleft: bool = False
    front: str | None = None
    manner_first: bool = False
    reverse: bool = False


def draw_form(frame: Frame, rng: random.Random) -> Form:
    """Any shape in which the frame can be said."""
    quantified = bool(frame.agent.quantifier)
    passive = frame.patient is not None and not quantified and rng.random() < 0.35
    cleft = not (passive or quantified or frame.negated) and rng.random() < 0.12
    present = [role for role in _ROLES if getattr(frame, role)]
    front = rng.choice(present) if present and not cleft and rng.random() < 0.35 else None
    return Form(
        passive=passive,
        cleft=cleft,
        front=front,
        manner_first=not frame.negated and rng.random() < 0.5,
        reverse=rng.random() < 0.3,
    )


def fitted(form: Form, frame: Frame) -> Form:
    """The form as far as the frame can be said in it."""
    quantified = bool(frame.agent.quantifier)
    return replace(
        form,
        passive=form.passive and frame.patient is not None and not quantified,
        cleft=form.cleft and not (quantified or frame.negated),
        front=form.front if form.front and getattr(frame, form.front) else None,
        manner_first=form.manner_first and not frame.negated,
    )


def sentence(frame: Frame, wording: Wording, form: Form | None = None) -> str:
    """The frame in words, in lower case and without a full stop.

    Example:
        >>> told = Frame(agent=Thing(noun="maria"), verb="buy", patient=Thing(noun="kite"), place="park")
        >>> sentence(told, Wording(rng=random.Random(0)), Form(front="place"))
        'in the park, maria purchased a kite'
    """
    form = form or draw_form(frame, wording.rng)
    extras = [
        phrase(role, value, wording)
        for role in _ROLES
        if role != form.front and (value := _role(frame, role))
    ]
    if form.reverse and frame.place not in lexicon.PLACES:  # "on monday indoors" is odd
        extras.reverse()
    manner = wording.word(frame.manner) if frame.manner else ""
    before, after = (manner, "") if form.manner_first else ("", manner)
    body = [*(_passive if form.passive else _active)(frame, wording, before), after, *extras]
    if form.cleft:
        body = ["it was", body[0], "who" if _is_person(frame.agent) else "that", *body[1:]]
    said = " ".join(part for part in body if part)
    if form.front is None:
        return said
    return f"{phrase(form.front, str(_role(frame, form.front)), wording)}, {said}"


def _active(frame: Frame, wording: Wording, manner: str) -> list[str]:
    """Subject, verb and object, "maria", "quickly washed", "a cup"."""
    patient = thing(frame.patient, wording, "a") if frame.patient else ""
    return [subject(frame.agent, wording), *_verb(frame, wording, manner), patient]


def _verb(frame: Frame, wording: Wording, manner: str) -> list[str]:
    lemma = wording.word("verb:" + frame.verb, VERBS[frame.verb].words)
    if not frame.negated:
        return [manner, _plain(past(lemma))]
    if wording.word("negation", ("did not", "never")) == "never":
        return ["never", manner, _plain(past(lemma))]
    return ["did not", manner, _plain(lemma)]


def _passive(frame: Frame, wording: Wording, manner: str) -> list[str]:
    """Object, verb and subject: "a cup", "was not", "washed", "by maria"."""
    assert frame.patient is not None
    lemma = wording.word("verb:" + frame.verb, VERBS[frame.verb].words)
    denial = {"did not": "not", "never": "never"}[wording.word("negation", ("did not", "never"))]
    be = be_of(frame.patient)
    return [
        thing(frame.patient, wording, "a"),
        be,
        denial if frame.negated else "",
        manner,
        participle(lemma),
        "by " + subject(frame.agent, wording),
    ]


def be_of(said: Thing) -> str:
    """The past of "be" that agrees."""
    return "was" if said.number == "one" else "were"


def subject(agent: Thing, wording: Wording) -> str:
    """The agent: "maria", "the old judge", "every dog", "no dog"."""
    if not agent.quantifier:
        return thing(agent, wording, "the")
    quantifier = wording.word(agent.quantifier, _QUANTIFIED[agent.quantifier])
    return f"{quantifier} {_described(agent, wording, many=quantifier in ('all', 'some'))}"


def thing(said: Thing, wording: Wording, article: str) -> str:
    """A noun phrase with the article "a" or "the", or with its number."""
    if said.noun in NAME_SET:
        return said.noun
    if said.number != "one":
        return f"{_plain(wording.word(said.number))} {_described(said, wording, many=True)}"
    words = _described(said, wording)
    return f"{'an' if article == 'a' and words[0] in 'aeiou' else article} {words}"


def _described(said: Thing, wording: Wording, *, many: bool = False) -> str:
    noun = wording.word(said.noun)
    words = [*(wording.word(modifier) for modifier in said.modifiers), lexicon.plural(noun) if many else noun]
    return _plain(" ".join(words))


def phrase(role: str, value: str, wording: Wording) -> str:
    """A place, day or hour: "in the kitchen", "indoors", "on monday", "at noon"."""
    word = wording.word(value)
    if role != "place" or word in lexicon.PLACES:
        return _plain(word)
    where = "on" if word in lexicon.ON_PLACES else "at" if word in lexicon.AT_PLACES else "in"
    return f"{where} the {word}"


def _plain(concept: str) -> str:
    return concept.replace("_", " ")


def _role(frame: Frame, role: str) -> str | None:
    return {"place": frame.place, "day": frame.day, "hour": frame.hour, "manner": frame.manner}[role]


def _is_person(said: Thing) -> bool:
    return lexicon.TOP[said.noun] == "person"
