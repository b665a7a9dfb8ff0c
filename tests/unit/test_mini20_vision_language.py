"""The six tasks hold what they promise: truth is derived anew here, from the words and the scene."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pytest

from pituning.datasets.named import DATASETS
from pituning.errors import TaskError
from pituning.mini20.definition import PIXELS, Sizes
from pituning.mini20.phrases import HELD_OUT_WORDS, caption
from pituning.mini20.referring import by_appearance, by_position, by_relation, refer
from pituning.mini20.rendering import coverage, picture, pixels_of, render
from pituning.mini20.scenes import (
    COLOURS,
    COMMON,
    COVER,
    HELD_OUT,
    PATTERNS,
    SHAPES,
    SIZES,
    UNSEEN,
    Look,
    Scene,
    Thing,
    sample_scene,
)
from pituning.mini20.vision_language import TASKS
from pituning.mini20.visual_entailment import claim
from pituning.mini20.visual_questions import ANSWERS, ask
from pituning.task import Task

SMALL = Sizes(train=60, validation=20, test=60)
EXPRESSIONS = (by_position, by_appearance, by_relation)
MANY = 300


@cache
def task_of(name: str, seed: int = 0) -> Task:
    return TASKS[name](seed, SMALL)


# An independent reading of noun phrases: words to a test of a thing.

MEANINGS = {
    **{
        word: ("size", size)
        for size, words in {"small": "small little tiny", "large": "large big huge"}.items()
        for word in words.split()
    },
    **{colour: ("colour", colour) for colour in COLOURS},
    "violet": ("colour", "purple"),
    **{pattern: ("pattern", pattern) for pattern in PATTERNS},
    "spotted": ("pattern", "dotted"),
    "stripes": ("pattern", "striped"),
    "dots": ("pattern", "dotted"),
    **{shape: ("shape", shape) for shape in SHAPES},
    "crosses": ("shape", "cross"),
    **{shape + "s": ("shape", shape) for shape in SHAPES},
    "disc": ("shape", "circle"),
    "discs": ("shape", "circle"),
}
FILLERS = {"a", "an", "the", "with", "one", "thing", "things", "shape", "shapes", "object", "objects"}


def fitting(words: str, scene: Scene) -> list[Thing]:
    said = [MEANINGS[word] for word in words.split() if word not in FILLERS]
    return [t for t in scene.things if all(getattr(t.look, name) == value for name, value in said)]


def middle(thing: Thing) -> tuple[float, float]:
    x0, y0, x1, y1 = thing.box
    return ((x0 + x1) / 2 * PIXELS, (y0 + y1) / 2 * PIXELS)


def side_of(thing: Thing, other: Thing) -> dict[str, float]:
    (x, y), (u, v) = middle(thing), middle(other)
    return {"to the left of": u - x, "to the right of": x - u, "above": v - y, "below": y - v}


RELATIONS = "to the left of|to the right of|above|below"


def readings(text: str, scene: Scene) -> list[list[Thing]]:
    """The things that a text may mean, by each sensible reading of it, strict and loose."""
    if match := re.fullmatch(r"second (.+) from (left|right)", text):
        order = sorted(fitting(match[1], scene), key=middle, reverse=match[2] == "right")
        return [order[1:2]]
    if match := re.fullmatch(r"the (.+?) (?:that is |which is )?(" + RELATIONS + ") the (.+)", text):
        anchors = fitting(match[3], scene)
        assert len(anchors) == 1
        group = [t for t in fitting(match[1], scene) if t is not anchors[0]]
        far = {id(t): side_of(t, anchors[0])[match[2]] for t in group}
        return [[t for t in group if far[id(t)] > 0], [t for t in group if far[id(t)] >= 6]]
    if match := re.fullmatch(r"the (.+?) (?:that is |which is )?closest to the (.+)", text):
        anchors = fitting(match[2], scene)
        assert len(anchors) == 1
        group = fitting(match[1], scene)
        x, y = middle(anchors[0])
        return [[min(group, key=lambda t: (middle(t)[0] - x) ** 2 + (middle(t)[1] - y) ** 2)]]
    if match := re.fullmatch(r"the (.+) (?:that|which) is (\w+) and (\w+)", text):
        return [fitting(f"{match[2]} {match[3]} {match[1]}", scene)]
    if match := re.fullmatch(r"not (\w+) (\w+)", text):
        denied = fitting(match[1], scene)
        return [[t for t in fitting(match[2], scene) if t not in denied]]
    if match := re.fullmatch(r"same (color|pattern|shape) as (.+)", text):
        (anchor,) = fitting(match[2], scene)
        name = {"color": "colour"}.get(match[1], match[1])
        wanted = getattr(anchor.look, name)
        return [[t for t in scene.things if getattr(t.look, name) == wanted and t is not anchor]]
    where = re.search(r"(top|bottom) (left|right)|left|right|top|bottom|center|middle", text)
    if where is None:
        return [fitting(text, scene)]
    rest = re.sub(rf"\b(on|at|in) the {where[0]}|\b{where[0]}\b", "", text)
    return [[placed(where[0], fitting(rest, scene))]]


def placed(where: str, group: list[Thing]) -> Thing:
    """The one thing that is most so: in the middle, in a corner, at a side."""
    centre = PIXELS / 2
    if where in ("center", "middle"):
        return min(group, key=lambda t: max(abs(middle(t)[0] - centre), abs(middle(t)[1] - centre)))
    ways = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
    if " " in where:
        signs = [ways[word] for word in where.split()]
        inside = [
            t
            for t in group
            if all((middle(t)[0] - centre) * x + (middle(t)[1] - centre) * y > 0 for x, y in signs)
        ]
        assert len(inside) == 1
        return inside[0]
    x, y = ways[where]
    return max(group, key=lambda t: middle(t)[0] * x + middle(t)[1] * y)


@pytest.mark.parametrize("express", EXPRESSIONS)
@pytest.mark.parametrize("world", [COMMON, UNSEEN])
def test_an_expression_fits_its_target_alone(express, world) -> None:
    rng = Random(1)
    for _ in range(MANY):
        found = refer(express, rng, world)
        for things in readings(found.text, found.scene):
            assert things == [found.target], found.text


def test_the_referring_tasks_differ_as_their_originals() -> None:
    words = {
        name: [(e.text_a or "").split() for e in task_of(name).train]
        for name in ("refcoco", "refcoco+", "refcocog")
    }
    places = {"left", "right", "top", "bottom", "center", "middle", "above", "below", "closest"}
    assert all(places & set(text) for text in words["refcoco"])
    assert not any(places & set(text) for text in words["refcoco+"])
    mean = {name: np.mean([len(text) for text in texts]) for name, texts in words.items()}
    assert mean["refcocog"] > 2 * max(mean["refcoco"], mean["refcoco+"])


def counted(words: str, scene: Scene) -> int:
    return len(fitting(words, scene))


def the(words: str, scene: Scene) -> Thing:
    (thing,) = fitting(words, scene)
    return thing


def answer_to(text: str, scene: Scene) -> str:
    text = text.removesuffix("?")
    if match := re.fullmatch(r"what color is the (.+)", text):
        return the(match[1], scene).look.colour
    if match := re.fullmatch(rf"what shape is ({RELATIONS}) the (.+)", text):
        other = the(match[2], scene)
        (found,) = [t for t in scene.things if t is not other and side_of(t, other)[match[1]] > 0]
        return found.look.shape
    if match := re.fullmatch(r"what shape is the (.+)", text):
        return the(match[1], scene).look.shape
    if match := re.fullmatch(r"how many (.+) are there", text):
        return str(counted(match[1], scene))
    if match := re.fullmatch(r"is there (.+)", text):
        return "yes" if counted(match[1], scene) else "no"
    if match := re.fullmatch(r"are there more (.+) than (.+)", text):
        assert counted(match[1], scene) != counted(match[2], scene)
        return "yes" if counted(match[1], scene) > counted(match[2], scene) else "no"
    if match := re.fullmatch(r"are the (.+) and the (.+) the same (color|pattern)", text):
        name = {"color": "colour"}.get(match[3], match[3])
        one, other = (getattr(the(words, scene).look, name) for words in match.group(1, 2))
        return "yes" if one == other else "no"
    if match := re.fullmatch(r"is the (.+) (larger|smaller) than the (.+)", text):
        one, other = (t.box[2] - t.box[0] for t in (the(match[1], scene), the(match[3], scene)))
        assert one != other
        return "yes" if (one > other) == (match[2] == "larger") else "no"
    match = re.fullmatch(rf"is the (.+) ({RELATIONS}) the (.+)", text)
    assert match, text
    shift = side_of(the(match[1], scene), the(match[3], scene))[match[2]]
    assert abs(shift) >= 6
    return "yes" if shift > 0 else "no"


@pytest.mark.parametrize("world", [COMMON, UNSEEN])
def test_a_question_has_the_answer_that_the_scene_gives(world) -> None:
    rng = Random(2)
    for _ in range(3 * MANY):
        found = ask(rng, world)
        assert answer_to(found.text, found.scene) == found.answer, found.text
        assert found.answer in ANSWERS


def possible(hypothesis: str, scene: Scene) -> Iterator[bool]:
    """The hypothesis's truth in the worlds that the picture allows: nothing, or any thing, is hidden."""
    hides = scene.cover is not None
    if match := re.fullmatch(r"(?:there is|the picture has|we can see) (an? .+)", hypothesis):
        seen = bool(fitting(match[1], scene))
        yield from {seen, seen or hides}
    elif match := re.fullmatch(r"(?:there is no|we cannot see any) (.+)", hypothesis):
        yield from {not counted(match[1], scene), not counted(match[1], scene) and not hides}
    elif match := re.fullmatch(r"(?:all the shapes are|every shape is) (\w+)", hypothesis):
        every = counted(match[1], scene) == len(scene.things)
        yield from {every, every and not hides}
    else:
        match = re.fullmatch(r"there (?:is|are) exactly (one|two) (.+)", hypothesis)
        assert match, hypothesis
        number = {"one": 1, "two": 2}[match[1]]
        yield from {counted(match[2], scene) + more == number for more in range(2 if hides else 1)}


@pytest.mark.parametrize("world", [COMMON, UNSEEN])
def test_a_claim_has_the_label_that_the_scene_gives(world) -> None:
    rng = Random(3)
    for _ in range(2 * MANY):
        found = claim(rng, world)
        truths = set(possible(found.hypothesis, found.scene))
        label = "maybe" if len(truths) == 2 else "yes" if truths == {True} else "no"
        assert found.label == label, found.hypothesis
        ground = re.search(r"(light|dark) background", found.premise)
        assert ground is None or (ground[1] == "dark") == found.scene.background.dark


@pytest.mark.parametrize("down", [False, True])
def test_captions_tell_what_is_there_in_at_most_sixteen_words(down: bool) -> None:
    rng = Random(4)
    numbers = {"two": 2, "three": 3, "four": 4}
    for _ in range(MANY):
        scene = sample_scene(rng, count=rng.randint(1, 4))
        text = caption(scene, rng, down=down)
        assert len(text.split()) <= 16
        assert not set(text.split()) & HELD_OUT_WORDS.keys()
        told: Counter[tuple[str, str]] = Counter()
        body = re.sub(
            r"^there is | (on|in front of) a (light|dark) background$|with stripes|with dots", "", text
        )
        for number, words in re.findall(r"\b(an?|two|three|four) (.+?)(?= (?:an?|two|three|four) |$)", body):
            kinds = dict(MEANINGS[word] for word in words.split() if word in MEANINGS)
            told[kinds["colour"], kinds["shape"]] += numbers.get(number, 1)
        assert told == Counter((t.look.colour, t.look.shape) for t in scene.things), text


def test_answers_are_balanced_and_texts_alone_tell_little() -> None:
    rng = Random(5)
    questions = [ask(rng) for _ in range(4000)]
    total = Counter(q.answer for q in questions)
    assert max(total.values()) / len(questions) < 0.3
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    for q in questions:
        if q.answer in ("yes", "no"):
            by_form[" ".join(q.text.split()[:2])][q.answer] += 1
    assert all(max(c.values()) / c.total() < 0.56 for c in by_form.values())
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(3000):
        found = claim(rng)
        labels[" ".join(found.hypothesis.split()[:3])][found.label] += 1
    assert all(max(c.values()) / c.total() < 0.45 for c in labels.values() if c.total() > 100)


def test_only_test_examples_hold_what_is_held_out() -> None:
    rng = Random(6)
    seen = [t.look for _ in range(MANY) for t in ask(rng).scene.things]
    assert not any(look.held_out for look in seen)
    unseen = [t.look for _ in range(MANY) for t in refer(by_position, rng, UNSEEN).scene.things]
    assert 0.1 < np.mean([look.held_out for look in unseen]) < 0.7
    for name in TASKS:
        texts = {
            s: " ".join(f"{e.text_a} {e.text_b}" for e in task_of(name).split(s)) for s in ("train", "test")
        }
        assert not set(texts["train"].split()) & HELD_OUT_WORDS.keys()
    assert all(len({h[i] for h in HELD_OUT}) == n for i, n in enumerate((8, 8, 4)))


def test_a_box_is_where_a_shape_is_drawn() -> None:
    for shape, pattern, side in product(SHAPES, PATTERNS, range(11, 26)):
        drawn = sum(coverage(shape, pattern, side))
        for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
            assert edge.sum() > 0, (shape, side)


def test_patterns_of_a_shape_look_different() -> None:
    for shape, (small, large) in product(SHAPES, SIZES.values()):
        for side in range(small, large + 1):
            drawn = [np.stack(coverage(shape, pattern, side)) for pattern in PATTERNS]
            for i, one in enumerate(drawn):
                for other in drawn[:i]:
                    assert np.abs(one - other).sum() >= 6 * 16, (shape, side)  # six pixels


def test_things_are_large_enough_and_apart() -> None:
    rng = Random(7)
    for _ in range(MANY):
        scene = claim(rng).scene
        assert 2 <= len(scene.things) <= 5
        patches = [t.patch for t in scene.things] + ([scene.cover] if scene.cover else [])
        for i, one in enumerate(patches):
            assert 10 <= one.side <= COVER
            assert min(one.x, one.y) >= 0
            assert max(one.x, one.y) + one.side <= PIXELS
            assert not any(one.touches(other) for other in patches[:i])


def test_too_many_things_are_refused_instead_of_tried_for_ever() -> None:
    look = Look(shape="star", colour="red", pattern="plain", size="large")
    with pytest.raises(TaskError, match="fit"):
        sample_scene(Random(0), given=[look] * 5, count=5)


def test_pictures_are_png_of_the_scene() -> None:
    scene = sample_scene(Random(8))
    (example,) = TASKS["vqav2"](0, Sizes(train=1, validation=1, test=1)).train
    assert example.open_image().size == (PIXELS, PIXELS)
    assert np.array_equal(np.asarray(render(scene)), pixels_of(scene))
    assert picture(scene) == picture(sample_scene(Random(8)))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_sound_and_like_its_original(name: str) -> None:
    task, dataset = task_of(name), DATASETS[name]
    assert task.check() == []
    assert [len(task.split(s)) for s in ("train", "validation", "test")] == list(vars(SMALL).values())
    assert (task.name, task.kind, task.metric, task.prompt) == (
        name,
        dataset.kind,
        dataset.metric,
        dataset.prompt,
    )
    assert task.image_size is None
    assert task.decoding.box_range is None
    assert task.decoding.num_beams == dataset.decoding.num_beams


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides_alone(name: str) -> None:
    assert TASKS[name](0, SMALL).fingerprint == task_of(name).fingerprint != task_of(name, 1).fingerprint


def test_the_tasks_are_the_same_on_every_machine() -> None:
    """Written down once; other Python, NumPy or Pillow must not change them."""
    assert {name: task_of(name).fingerprint[:8] for name in TASKS} == FINGERPRINTS


FINGERPRINTS = {
    "coco-captions": "fde324bf",
    "refcoco": "c2690c49",
    "refcoco+": "fda37c77",
    "refcocog": "d364d788",
    "snli-ve": "5d52ffca",
    "vqav2": "3790413a",
}
