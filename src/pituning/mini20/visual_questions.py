"""Questions about a scene with one right answer, each kind with answers in equal shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from pituning.mini20.phrases import (
    OPPOSITES,
    RELATIONS,
    Phrase,
    about,
    holds,
    in_world,
    noun_phrase,
    unique_phrases,
    with_article,
)
from pituning.mini20.scenes import (
    ATTRIBUTES,
    COLOURS,
    COMMON,
    COUNT,
    LARGEST,
    SHAPES,
    Look,
    Scene,
    World,
    changed,
    sample_look,
    sample_scene,
)

MOST = 4
"""Counts go from 0 to this: one below the most things in a picture, so that not all need be counted."""

ANSWERS = ("yes", "no", *map(str, range(MOST + 1)), *COLOURS, *SHAPES)
"""What a model may answer."""

NAMES = ("thing", "shape", "object")
"""Nouns of phrases without a shape; "what shape is the shape" is spared by `_attribute`."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A scene, a question about it and the one right answer, of `ANSWERS`."""

    scene: Scene
    text: str
    answer: str


def ask(rng: Random, world: World = COMMON, kind: str | None = None) -> Question:
    """A question of a random kind (by `SHARES`), or of this one.

    Example:
        >>> question = ask(Random(5), kind="count")
        >>> question.text, question.answer
        ('how many little diamonds are there?', '4')
    """
    kind = kind or rng.choices(list(SHARES), list(SHARES.values()))[0]
    question = KINDS[kind](rng, world)
    return Question(
        scene=question.scene, text=in_world(question.text, rng, world) + "?", answer=question.answer
    )


def _colour(rng: Random, world: World) -> Question:
    return _attribute(rng, world, "colour", "what color is the {}")


def _shape(rng: Random, world: World) -> Question:
    return _attribute(rng, world, "shape", "what shape is the {}")


def _attribute(rng: Random, world: World, asked: str, form: str) -> Question:
    """The attribute `asked` of the one thing that has the others named."""
    look = sample_look(rng, world)
    names = rng.sample([name for name in ATTRIBUTES if name != asked], rng.choice((1, 2, 2)))
    phrase = about(look, names)
    scene = sample_scene(rng, given=[look], world=world, avoid=phrase.fits, count=rng.randint(*COUNT))
    text = form.format(noun_phrase(phrase, rng, nouns=[name for name in NAMES if name != asked]))
    return Question(scene=scene, text=text, answer=getattr(look, asked))


def _count(rng: Random, world: World) -> Question:
    """How many things a phrase of one or two attributes fits; never large ones, of which few have room."""
    number = rng.randint(0, MOST)
    look = replace(sample_look(rng, world), size="small")
    phrase = about(look, rng.sample(tuple(ATTRIBUTES), rng.choice((1, 1, 2))))
    scene = _with(rng, world, [(phrase, number)])
    text = f"how many {noun_phrase(phrase, rng, plural=True, nouns=NAMES)} are there"
    return Question(scene=scene, text=text, answer=str(number))


def _with(rng: Random, world: World, wanted: Sequence[tuple[Phrase, int]]) -> Scene:
    """A scene in which each of these phrases fits exactly so many things."""
    looks = [phrase.complete(rng, world) for phrase, number in wanted for _ in range(number)]
    looks = [replace(look, size="small") if n >= LARGEST else look for n, look in enumerate(looks)]
    return sample_scene(
        rng,
        given=looks,
        count=rng.randint(max(COUNT[0], len(looks)), COUNT[1]),
        world=world,
        avoid=lambda look: any(phrase.fits(look) for phrase, _ in wanted),
    )


def _existence(rng: Random, world: World) -> Question:
    """Whether a phrase of two or three attributes fits something; something else almost fits."""
    phrase, look = _two_or_three(rng, world)
    answer = rng.choice(("yes", "no"))
    given = [near_miss(rng, look, phrase, world)] + [look] * (answer == "yes")
    scene = sample_scene(rng, given=given, world=world, avoid=phrase.fits, count=rng.randint(*COUNT))
    text = f"is there {with_article(noun_phrase(phrase, rng, nouns=NAMES))}"
    return Question(scene=scene, text=text, answer=answer)


def _two_or_three(rng: Random, world: World) -> tuple[Phrase, Look]:
    """A phrase of two or three attributes, and a look that it fits."""
    look = sample_look(rng, world)
    return about(look, rng.sample(tuple(ATTRIBUTES), rng.choice((2, 2, 3)))), look


def near_miss(rng: Random, look: Look, phrase: Phrase, world: World) -> Look:
    """A look that differs from `look` in one or two attributes and that `phrase` does not fit."""
    while True:
        other = changed(rng, look, rng.choice((1, 1, 2)), world)
        if not phrase.fits(other):
            return other


def _comparison(rng: Random, world: World) -> Question:
    return rng.choice((_more, _more, _same, _larger))(rng, world)


def _more(rng: Random, world: World) -> Question:
    """Which of two shapes or colours there are more of."""
    name = rng.choice(("shape", "colour"))
    one, other = (Phrase(**{name: value}) for value in rng.sample(ATTRIBUTES[name], 2))
    more, fewer = rng.choice(((1, 0), (2, 0), (2, 1), (3, 1), (3, 2)))
    answer = rng.choice(("yes", "no"))
    numbers = (more, fewer) if answer == "yes" else (fewer, more)
    scene = _with(rng, world, list(zip((one, other), numbers, strict=True)))
    first, second = (noun_phrase(phrase, rng, plural=True, nouns=("thing",)) for phrase in (one, other))
    return Question(scene=scene, text=f"are there more {first} than {second}", answer=answer)


def _same(rng: Random, world: World) -> Question:
    """Whether two things have the same colour or pattern."""
    name, answer = rng.choice(("colour", "pattern")), rng.choice(("yes", "no"))
    one, other = _pair(rng, world, name, same=answer == "yes")
    word = "color" if name == "colour" else name
    text = f"are the {one.shape} and the {other.shape} the same {word}"
    return Question(scene=_of_pair(rng, world, one, other), text=text, answer=answer)


def _larger(rng: Random, world: World) -> Question:
    """Which of two things is larger."""
    one, other = _pair(rng, world, "size", same=False)
    word = rng.choice(("larger", "smaller"))
    answer = "yes" if (one.size == "large") == (word == "larger") else "no"
    text = f"is the {one.shape} {word} than the {other.shape}"
    return Question(scene=_of_pair(rng, world, one, other), text=text, answer=answer)


def _pair(rng: Random, world: World, name: str, *, same: bool) -> tuple[Look, Look]:
    """Two looks of different shapes that agree, or do not, in the attribute `name`."""
    while True:
        one, other = sample_look(rng, world), sample_look(rng, world)
        if one.shape != other.shape and (getattr(one, name) == getattr(other, name)) == same:
            return one, other


def _of_pair(rng: Random, world: World, one: Look, other: Look) -> Scene:
    """A scene with no other things of their shapes."""
    shapes = {one.shape, other.shape}
    return sample_scene(rng, given=[one, other], world=world, avoid=lambda look: look.shape in shapes)


def _relation(rng: Random, world: World) -> Question:
    return rng.choice((_related, _who))(rng, world)


def _related(rng: Random, world: World) -> Question:
    """Whether one thing is on a certain side of another: it is, or is on the opposite one."""
    while True:
        scene = sample_scene(rng, world=world, count=rng.randint(2, 4))
        one, other = rng.sample(scene.things, 2)
        phrases = unique_phrases(scene, one), unique_phrases(scene, other)
        relations = [relation for relation in RELATIONS if holds(one, relation, other)]
        if relations and all(phrases):
            answer = rng.choice(("yes", "no"))
            asked = relations[0] if answer == "yes" else OPPOSITES[relations[0]]
            first, second = (noun_phrase(rng.choice(found), rng, nouns=NAMES) for found in phrases)
            return Question(
                scene=scene, text=f"is the {first} {RELATIONS[asked]} the {second}", answer=answer
            )


def _who(rng: Random, world: World) -> Question:
    """The shape of the only thing on a certain side of another."""
    while True:
        scene = sample_scene(rng, world=world)
        other = rng.choice(scene.things)
        relation, phrases = rng.choice(tuple(RELATIONS)), unique_phrases(scene, other)
        sides = {thing: holds(thing, relation, other) for thing in scene.things if thing is not other}
        found = [thing for thing, there in sides.items() if there]
        if phrases and len(found) == 1 and list(sides.values()).count(False) == len(sides) - 1:
            named = noun_phrase(rng.choice(phrases), rng, nouns=NAMES)
            text = f"what shape is {RELATIONS[relation]} the {named}"
            return Question(scene=scene, text=text, answer=found[0].look.shape)


KINDS: Mapping[str, Callable[[Random, World], Question]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "existence": _existence,
    "comparison": _comparison,
    "relation": _relation,
}

SHARES = {"colour": 4, "shape": 2, "count": 4, "existence": 4, "comparison": 2, "relation": 2}
"""Of 18 questions; those with yes or no are seven, about 39 %, and a text alone tells nothing else."""
