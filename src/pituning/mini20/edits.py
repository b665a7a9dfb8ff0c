"""Small changes of a frame's meaning: narrower, wider, or incompatible with what it was."""

from __future__ import annotations

import random
from dataclasses import replace

from pituning.mini20 import lexicon
from pituning.mini20.frames import Frame, Thing, Vocabulary, draw_extra, draw_quality, with_modifier
from pituning.mini20.lexicon import DIMENSION, NAME_SET, PARENT, TOP
from pituning.mini20.verbs import MANNERLESS, VERBS, WAYS

SLOTS = ("agent", "agent", "patient", "patient", "verb", "place", "day", "hour", "manner")
"""What is changed; people and things twice as often as the rest."""

KIND = 0.4
"""How often what can be told more or less closely becomes another kind, "dog" or "poodle"."""


def narrowed(frame: Frame, rng: random.Random, words: Vocabulary, slots: tuple[str, ...] = SLOTS) -> Frame:
    """The same with one role told more closely; `frame` itself where none of `slots` can be.

    Example:
        >>> from pituning.mini20.frames import SEEN
        >>> told = Frame(agent=Thing(noun="maria"), verb="clean", patient=Thing(noun="kite"))
        >>> narrowed(told, random.Random(0), SEEN, ("verb",)).verb in WAYS["clean"]
        True
    """
    for slot in rng.sample(slots, len(slots)):
        value = getattr(frame, slot)
        new: object = None
        if isinstance(value, Thing):
            new = _narrower_thing(value, rng, words)
        elif slot == "verb":
            ways = [w for w in WAYS.get(frame.verb, ()) if _fits(frame, w)]
            new = rng.choice(ways) if ways else None
        elif slot in lexicon.EXTRAS and value is None:
            new = draw_extra(rng, slot) if _room(frame, slot) else None
        elif slot in ("place", "day"):
            table = lexicon.PLACES if slot == "place" else lexicon.DAYS
            new = rng.choice(table[value]) if value in table else None
        if new is not None:
            return replace(frame, **{slot: new})  # type: ignore[arg-type]
    return frame


def widened(frame: Frame, rng: random.Random, slots: tuple[str, ...] = SLOTS) -> Frame:
    """The same with one role told less closely, or not at all; `frame` itself where none can be."""
    for slot in rng.sample(slots, len(slots)):
        value = getattr(frame, slot)
        new: object = None
        if isinstance(value, Thing):
            new = _wider_thing(value, rng)
        elif slot == "verb":
            kind = VERBS[frame.verb].kind
            new = kind if kind and _fits(frame, kind) else None
        elif value is not None and slot in lexicon.EXTRAS:
            kind = (lexicon.PLACE_KIND | lexicon.DAY_KIND).get(value)
            if kind is not None and rng.random() < KIND:
                new = kind
            elif _extras(frame) > 1:
                return replace(frame, **{slot: None})  # type: ignore[arg-type]
        if new is not None:
            return replace(frame, **{slot: new})  # type: ignore[arg-type]
    return frame


def opposed(frame: Frame, rng: random.Random, words: Vocabulary, slots: tuple[str, ...] = SLOTS) -> Frame:
    """The same with one role that cannot be true of the same event; or agent and patient change places."""
    if rng.random() < 0.25 and "agent" in slots and reversible(frame):
        return swapped(frame)
    for slot in rng.sample(slots, len(slots)):
        value = getattr(frame, slot)
        new: object = None
        if isinstance(value, Thing):
            new = other_thing(value, rng, words)
        elif slot == "verb":
            other = VERBS[frame.verb].opposite
            new = other if other and _fits(frame, other) else None
        elif slot == "manner" and value:
            new = lexicon.OPPOSITE_MANNER[value]
        elif value is not None:
            new = _other_extra(slot, value, rng)
        if new is not None:
            return replace(frame, **{slot: new})  # type: ignore[arg-type]
    return frame


def reversible(frame: Frame) -> bool:
    """Whether what was done to the patient could have been done by it."""
    patient, verb = frame.patient, VERBS[frame.verb]
    if patient is None or patient.number != "one" or frame.agent.quantifier:
        return False
    return TOP[patient.noun] in verb.agents and TOP[frame.agent.noun] in verb.patients


def swapped(frame: Frame) -> Frame:
    """Agent and patient in each other's place."""
    assert frame.patient is not None
    return replace(frame, agent=frame.patient, patient=frame.agent)


def other_thing(said: Thing, rng: random.Random, words: Vocabulary) -> Thing | None:
    """Another name, another kind of the same kind, another number or another quality."""
    ways = rng.sample(("noun", "number", "quality"), 3)
    for way in ways:
        if way == "number" and said.number in lexicon.NUMBERS:
            return replace(said, number=rng.choice([n for n in lexicon.NUMBERS if n != said.number]))
        if way == "quality" and said.modifiers:
            return _other_quality(said, rng, words) or said
        if way == "noun" and said.noun not in lexicon.TOPS:
            pool = words.names if said.noun in NAME_SET else words.children[PARENT[said.noun]]
            return replace(said, noun=rng.choice([noun for noun in pool if noun != said.noun]))
    return None


def _other_quality(said: Thing, rng: random.Random, words: Vocabulary) -> Thing | None:
    place = rng.randrange(len(said.modifiers))
    old = said.modifiers[place]
    pool = [word for word in words.qualities[DIMENSION[TOP[said.noun], old]] if word != old]
    if not pool:
        return None
    return replace(said, modifiers=(*said.modifiers[:place], rng.choice(pool), *said.modifiers[place + 1 :]))


def _narrower_thing(said: Thing, rng: random.Random, words: Vocabulary) -> Thing | None:
    if said.noun in NAME_SET:
        return None
    if said.number == lexicon.SEVERAL and rng.random() < 0.5:
        return replace(said, number=rng.choice(lexicon.MANY))
    if said.noun in words.children and rng.random() < KIND:
        kind = rng.choice(words.children[said.noun])
        return replace(said, noun=kind)
    if len(said.modifiers) > 1:
        return None
    top = TOP[said.noun]
    added = with_modifier(said.modifiers, draw_quality(rng, words, top), top)
    return replace(said, modifiers=added) if added != said.modifiers else None


def _wider_thing(said: Thing, rng: random.Random) -> Thing | None:
    if said.noun in NAME_SET:
        return Thing(noun="person") if rng.random() < 0.5 else None
    if said.number in lexicon.MANY and rng.random() < 0.5:
        return replace(said, number=lexicon.SEVERAL)
    if said.noun in PARENT and rng.random() < KIND:
        return replace(said, noun=PARENT[said.noun])
    if said.modifiers:
        gone = rng.randrange(len(said.modifiers))
        return replace(said, modifiers=said.modifiers[:gone] + said.modifiers[gone + 1 :])
    return None


def _other_extra(slot: str, value: str, rng: random.Random) -> str:
    """Another hour, day or place; a kind for a kind."""
    if slot == "hour":
        pool: tuple[str, ...] = lexicon.HOURS
    else:
        table, kinds = (
            (lexicon.PLACES, lexicon.PLACE_KIND) if slot == "place" else (lexicon.DAYS, lexicon.DAY_KIND)
        )
        pool = tuple(table) if value in table else tuple(kinds)
    return rng.choice([word for word in pool if word != value])


def _extras(frame: Frame) -> int:
    return sum(value is not None for value in (frame.place, frame.day, frame.hour, frame.manner))


def _room(frame: Frame, slot: str) -> bool:
    """Whether the role `slot` can be added."""
    return _extras(frame) < 3 and not (slot == "manner" and frame.verb in MANNERLESS)


def _fits(frame: Frame, verb: str) -> bool:
    """Whether the same people and things go with another verb."""
    other = VERBS[verb]
    if TOP[frame.agent.noun] not in other.agents or (frame.patient is None) != (not other.patients):
        return False
    if frame.manner is not None and verb in MANNERLESS:
        return False
    return frame.patient is None or TOP[frame.patient.noun] in other.patients
