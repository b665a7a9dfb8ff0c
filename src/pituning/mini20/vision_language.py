"""The six vision-language tasks: RefCOCO, RefCOCO+, RefCOCOg, SNLI-VE, COCO captions and VQAv2 in small.

Prompts, kinds, metrics and decoding are those of `pituning.datasets`; the pictures are scenes of flat shapes.
What only test examples hold: `scenes.HELD_OUT` (combinations of colour, shape and pattern) and
`phrases.HELD_OUT_WORDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from pituning.datasets.named import DATASETS
from pituning.decoding import Decoding
from pituning.example import Example
from pituning.mini20.definition import Maker, Sizes
from pituning.mini20.phrases import caption
from pituning.mini20.referring import Expression, by_appearance, by_position, by_relation, refer
from pituning.mini20.rendering import picture
from pituning.mini20.scenes import COMMON, UNSEEN, World, sample_look, sample_scene
from pituning.mini20.visual_entailment import claim
from pituning.mini20.visual_questions import ANSWERS, ask
from pituning.task import Task

CAPTIONED = (1, 4)
"""Fewest and most things in a picture to be described."""

REFERENCES = 5
"""Captions of a picture outside of training, where each has one: as COCO's rows are read."""

Draw = Callable[[Random, str], Example]
"""A random example of a split."""


def world_of(split: str) -> World:
    """What the pictures and texts of a split may hold."""
    return UNSEEN if split == "test" else COMMON


def _referring(express: Expression) -> Draw:
    def draw(rng: Random, split: str) -> Example:
        found = refer(express, rng, world_of(split))
        return Example(text_a=found.text, image=picture(found.scene), bbox=found.target.box)

    return draw


def _entailment(rng: Random, split: str) -> Example:
    found = claim(rng, world_of(split))
    return Example(
        text_a=found.premise, text_b=found.hypothesis, image=picture(found.scene), label=found.label
    )


def _captioning(rng: Random, split: str) -> Example:
    world = world_of(split)
    scene = sample_scene(rng, given=[sample_look(rng, world)], count=rng.randint(*CAPTIONED), world=world)
    texts = [caption(scene, rng, down=True) for _ in range(1 if split == "train" else REFERENCES)]
    return Example(image=picture(scene), references=tuple(texts))


def _question(rng: Random, split: str) -> Example:
    found = ask(rng, world_of(split))
    return Example(text_a=found.text, image=picture(found.scene), references=(found.answer,), weights=(1.0,))


def _maker(name: str, draw: Draw) -> Maker:
    dataset = DATASETS[name]
    decoding: Decoding = replace(dataset.decoding, box_range=None)  # that was of the paper's image size
    labels = dict.fromkeys(ANSWERS) if dataset.kind == "vqa" else dataset.labels or {}

    def make(seed: int, sizes: Sizes) -> Task:
        def drawn(split: str, size: int) -> tuple[Example, ...]:
            rng = Random(f"mini20 {name} {split} {seed}")
            return tuple(draw(rng, split) for _ in range(size))

        return Task(
            name=name,
            modality=dataset.modality,
            kind=dataset.kind,
            metric=dataset.metric,
            candidates=tuple(labels),
            prompt=dataset.prompt,
            decoding=decoding,
            train=drawn("train", sizes.train),
            validation=drawn("validation", sizes.validation),
            test=drawn("test", sizes.test),
        )

    return make


TASKS: Mapping[str, Maker] = {
    name: _maker(name, draw)
    for name, draw in (
        ("refcoco", _referring(by_position)),
        ("refcoco+", _referring(by_appearance)),
        ("refcocog", _referring(by_relation)),
        ("snli-ve", _entailment),
        ("coco-captions", _captioning),
        ("vqav2", _question),
    )
}
"""Name -> what makes the task of a seed and sizes."""
