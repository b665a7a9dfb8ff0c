"""The eight generated vision tasks: the paper's names, the same from a seed, nothing of test in training."""

import time
from dataclasses import replace
from itertools import chain
from random import Random

import numpy as np
import pytest

from pituning.datasets import dataset_named
from pituning.mini20 import other_families, vision
from pituning.mini20.definition import PIXELS, Sizes
from pituning.mini20.drawn import CARS, DISHES, FLOWERS, PLANES
from pituning.mini20.letters import DIGITS, HANDS, LETTERS, PARTS, digit_numbers
from pituning.mini20.textures import LANDS, TEXTURES

SMALL = Sizes(train=24, validation=12, test=12)
EIGHT = (
    "food101",
    "caltech101",
    "dtd",
    "eurosat",
    "fgvc-aircraft",
    "flowers102",
    "oxford-pets",
    "stanford-cars",
)
each = pytest.mark.parametrize("name", EIGHT)


def digests(task):
    return [[e.digest for e in split] for split in (task.train, task.validation, task.test)]


def test_the_eight_are_the_papers():
    assert tuple(vision.TASKS) == EIGHT


@each
def test_a_task_is_sound_and_of_its_originals_kind_prompt_and_metric(name):
    task, original = vision.TASKS[name](0, SMALL), dataset_named(name)
    assert task.check() == []
    assert (task.name, task.modality, task.kind, task.metric, task.prompt, task.image_size) == (
        (name, original.modality, original.kind, original.metric, original.prompt, None)
    )
    assert {example.label for example in task.train} == set(task.candidates)
    assert task.train[0].open_image().size == (PIXELS, PIXELS)


@each
def test_same_seed_same_task_and_another_seed_another(name):
    first = digests(vision.TASKS[name](3, SMALL))
    assert first == digests(vision.TASKS[name](3, SMALL))
    other = digests(vision.TASKS[name](4, SMALL))
    assert not set(chain(*first)) & set(chain(*other))


@each
def test_more_examples_leave_the_first_as_they_were(name):
    small, large = vision.TASKS[name](0, SMALL), vision.TASKS[name](0, replace(SMALL, train=40))
    assert large.train[:24] == small.train


@each
def test_no_picture_twice(name):
    every = list(chain(*digests(vision.TASKS[name](0, SMALL))))
    assert len(set(every)) == len(every)


def test_global_generators_are_neither_read_nor_moved():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    vision.TASKS["dtd"](0, SMALL)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_real_digit_is_in_one_split_alone():
    splits = [{n for name in DIGITS for n in digit_numbers(name, split)} for split in PARTS]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 1797


def test_held_out_hues_lie_outside_those_of_training():
    for start, end in vision.HUES["test"]:
        assert all(end <= low or high <= start for low, high in vision.HUES["train"])


@pytest.mark.parametrize(("split", "held_out"), [("train", False), ("validation", False), ("test", True)])
def test_hands_and_seasons_are_held_out(monkeypatch, split, held_out):
    hands, seasons = set(), set()
    monkeypatch.setattr(vision, "draw_letter", lambda pen, name, hand, look, rng: hands.add(hand))

    class Seasons(dict):
        def __getitem__(self, season):
            seasons.add(season)
            return super().__getitem__(season)

    monkeypatch.setattr(vision, "SEASONS", Seasons(vision.SEASONS))
    for index in range(60):
        vision._written("letter a", split, Random(index))
        vision._land("lake", split, Random(index))
    for seen, everything, key in ((hands, HANDS, "hands"), (seasons, vision.SEASONS, "seasons")):
        assert seen == {kind for kind in everything if (kind in vision.HELD_OUT[key]) == held_out}


def test_pre_training_families_are_none_of_the_classes_nor_held_out_hands():
    classes = {*DISHES, *DIGITS, *TEXTURES, *LANDS, *PLANES, *FLOWERS, *LETTERS, *CARS}
    others = {*other_families.SIGNS, *other_families.OTHER_TEXTURES, *other_families.THINGS}
    assert not others & classes
    assert set(other_families.SIGN_HANDS) == set(HANDS) - set(vision.HELD_OUT["hands"])


@pytest.mark.parametrize("kind", ["random_texture", "random_glyph", "random_drawing"])
def test_pre_training_pictures_come_from_their_generator(kind):
    draw = getattr(other_families, kind)
    first, again, other = draw(Random(1)), draw(Random(1)), draw(Random(2))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert first.image.size == (PIXELS, PIXELS)
    assert first.color != first.ground


@each
def test_at_least_300_examples_a_second(name):
    make = vision.TASKS[name]
    make(0, SMALL)
    start = time.process_time()
    make(1, Sizes(train=148, validation=1, test=1))
    assert 150 / (time.process_time() - start) > 300
