"""What `ofa-mini` is taught, in OFA's manner: captions, regions, questions, matching, attributes, words.

What overlaps with the twenty tasks of `mini20`: the shapes, colours and patterns of its scenes, without the
combinations that only test pictures hold; phrases that single a thing out by its looks, as refcoco+ has them,
but none by position or relation; captions; its language's words and sentences, as `mini20.reading` says; the
pen and the hands of its drawings. No entailment, paraphrase or sentiment is taught (`comparing` asks which
words of two sentences differ), no class of the vision tasks, none of the questions of vqav2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from pituning.mini20.other_families import random_drawing, random_glyph, random_texture
from pituning.mini20.phrases import caption, describe, noun_phrase, unique_phrases
from pituning.mini20.reading import attribute_question, definition_sentence, random_sentence
from pituning.mini20.rendering import pixels_of
from pituning.mini20.scenes import COLOURS, PATTERNS, SHAPES, Look, Scene, Thing, sample_look, sample_scene
from pituning.pretrain.lesson import marks_of
from pituning.pretrain.samples import Picture, Sample

Skill = Callable[[Random], Sample]

DESCRIBE = " what does the image describe?"


def _seen(scene: Scene, about: Thing | None = None) -> dict[str, Any]:
    """The picture of a scene, what is in it, and what of that the text means."""
    return {"picture": pixels_of(scene), "marks": marks_of(scene, about)}


def captioning(rng: Random) -> Sample:
    """A picture of one to four things, in words."""
    scene = sample_scene(rng, count=rng.randint(1, 4))
    return Sample(text=DESCRIBE, answer=caption(scene, rng), **_seen(scene))


def plain_scene(rng: Random) -> Scene:
    """One to four things of different colours and shapes: any word tells them apart."""
    looks: list[Look] = []
    for _ in range(rng.randint(1, 4)):
        look = sample_look(rng)
        while any(look.colour == other.colour or look.shape == other.shape for other in looks):
            look = sample_look(rng)
        looks.append(look)
    return sample_scene(rng, given=looks, count=len(looks))


def any_scene(rng: Random) -> Scene:
    """A plain one as often as one of things that are alike."""
    return plain_scene(rng) if rng.random() < 0.5 else sample_scene(rng)


def places(rng: Random) -> Sample:
    """One or two things from left to right, each with its box: grounded captioning."""
    scene = sample_scene(rng, count=rng.randint(1, 2))
    things = sorted(scene.things, key=lambda thing: thing.box)
    answer = [part for thing in things for part in (describe(thing, rng), thing.box)]
    return Sample(text=" what is where in the image?", answer=answer, **_seen(scene))


def grounding(rng: Random) -> Sample:
    """The box of a thing that its looks single out."""
    while True:
        scene = any_scene(rng)
        thing = rng.choice(scene.things)
        phrases = unique_phrases(scene, thing)
        if phrases:
            words = noun_phrase(rng.choice(phrases), rng)
            text = f' which region does the text " the {words} " describe?'
            return Sample(text=text, answer=thing.box, **_seen(scene, thing))


def region(rng: Random) -> Sample:
    """What is in a box."""
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    text = " what does the region describe? region: {box}"
    return Sample(text=text, answer=describe(thing, rng), **_seen(scene, thing), box=thing.box)


def matching(rng: Random) -> Sample:
    """Whether a caption is the picture's; a wrong one is of a scene with one thing changed, or of another."""
    scene = sample_scene(rng, count=rng.randint(1, 3))
    said, answer = scene, "yes"
    if rng.random() < 0.5:
        said, answer = _other(scene, rng), "no"
    text = f' does the image describe " {caption(said, rng)} "?'
    return Sample(text=text, answer=answer, **_seen(scene))


def _other(scene: Scene, rng: Random) -> Scene:
    """Another scene of as many things, none of whose looks is in `scene`."""
    seen = {(thing.look.shape, thing.look.colour) for thing in scene.things}
    return sample_scene(rng, count=len(scene.things), avoid=lambda look: (look.shape, look.colour) in seen)


def listing(rng: Random) -> Sample:
    """All values of one attribute in the picture, in the order of the list below, or how many things."""
    scene = sample_scene(rng)
    looks = [thing.look for thing in scene.things]
    name, values = rng.choice(
        (("colour", tuple(COLOURS)), ("shape", SHAPES), ("pattern", PATTERNS), ("", ()))
    )
    if not name:
        return Sample(text=" how many things does the image show?", answer=str(len(looks)), **_seen(scene))
    present = [value for value in values if any(getattr(look, name) == value for look in looks)]
    text = f" which {name}s does the image show?"
    return Sample(text=text, answer=" ".join(present), **_seen(scene))


def infilling(rng: Random) -> Sample:
    """A sentence whose words are partly masked, to be written in full."""
    return masked(random_sentence(rng).split(), rng)


def masked(words: list[str], rng: Random) -> Sample:
    """One to three words in a row hidden behind one mark."""
    start = rng.randrange(len(words))
    hidden = min(rng.randint(1, 3), len(words) - start)
    left = [*words[:start], "_", *words[start + hidden :]]
    return Sample(text=f' what is the complete text of " {" ".join(left)} "?', answer=" ".join(words))


def defining(rng: Random) -> Sample:
    """What something is a kind of."""
    noun, _, kind = definition_sentence(rng).partition(" is a kind of ")
    return Sample(text=f" what is {noun}?", answer=f"a kind of {kind}")


def reading(rng: Random) -> Sample:
    """A question that a sentence answers, in words."""
    found = attribute_question(rng)
    return Sample(text=f' text: " {found.text} " {found.question}', answer=found.answer)


def drawing(rng: Random) -> Sample:
    """A texture, a sign or a thing that no task has: its colours, its manner and its name."""
    found = rng.choice((random_texture, random_glyph, random_drawing))(rng)
    answer = f"{found.manner} {found.color} {found.name} on {found.ground}"
    return Sample(text=DESCRIBE, answer=answer, picture=grained(np.asarray(found.image), rng))


def grained(pixels: Picture, rng: Random) -> Picture:
    """With the noise of a camera, none to much."""
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    grain = noise.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(0, 12)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def comparing(rng: Random) -> Sample:
    """What becomes of a sentence: a word exchanged, added or left out, or nothing.

    Of each word of both texts it is also said whether it is one that only the one text has (1) or not (0).
    """
    words, others = random_sentence(rng).split(), random_sentence(rng).split()
    place = rng.randrange(len(words))
    old, new = words[place], rng.choice([word for word in others if word != words[place]])
    way = rng.choice(("exchanged", "exchanged", "added", "left out", "nothing"))
    gone, come = way in ("exchanged", "left out"), way in ("exchanged", "added")
    changed = [*words[:place], *[new] * come, *words[place + gone :]]
    answer = {
        "exchanged": f"{new} for {old}",
        "added": f"{new} was added",
        "left out": f"{old} was left out",
        "nothing": "nothing",
    }[way]
    text = f' text1 " {" ".join(words)} " text2 " {" ".join(changed)} " what became of text1 in text2?'
    first = [int(gone and at == place) for at in range(len(words))]
    second = [int(come and at == place) for at in range(len(changed))]
    return Sample(text=text, answer=answer, words=[-100, -100, *first, -100, -100, -100, *second])


def ordering(rng: Random) -> Sample:
    """A sentence from its words in any order."""
    words = random_sentence(rng).split()
    mixed = rng.sample(words, len(words))
    return Sample(text=f' what is the sentence of " {" ".join(mixed)} "?', answer=" ".join(words))


PICTURES: Mapping[str, tuple[Skill, float]] = {
    "captioning": (captioning, 0.18),
    "grounding": (grounding, 0.28),
    "places": (places, 0.08),
    "region": (region, 0.1),
    "matching": (matching, 0.16),
    "listing": (listing, 0.1),
    "drawing": (drawing, 0.14),
}
"""Skill -> what makes its samples, and its share of the pictures."""

TEXTS: Mapping[str, tuple[Skill, float]] = {
    "infilling": (infilling, 0.2),
    "defining": (defining, 0.1),
    "reading": (reading, 0.2),
    "comparing": (comparing, 0.8),
    "ordering": (ordering, 0.1),
}
"""Skill -> what makes its samples, and its share of the text."""
