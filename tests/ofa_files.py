"""Tiny data sets in the official OFA file formats, for tests: drawn squares and plain words.

The answers follow from the inputs, so that a model can learn them.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

COLORS = ("red", "blue", "green")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

REFERRING = ("refcoco", "refcoco+", "refcocog")
IMAGE_CLASSES = {
    "food101": ("apple_pie", "baby_back_ribs"),
    "caltech101": ("accordion", "airplane"),
    "dtd": ("banded", "dotted"),
    "eurosat": ("annual crop land", "forest"),
    "fgvc-aircraft": ("707-320", "A330-200"),
    "flowers102": ("pink primrose", "rose"),
    "oxford-pets": ("abyssinian", "beagle"),
    "stanford-cars": ("2012 BMW M3 Coupe", "2012 Fiat 500 Abarth"),
}
GLUE = ("mnli", "qqp", "mrpc", "qnli", "rte", "sst2")
NAMES = (*REFERRING, "snli-ve", "coco-captions", "vqav2", *IMAGE_CLASSES, *GLUE)


def write_dataset(name: str, folder: Path, /, *, seed: int = 0, rows: int = 8, **settings: Any) -> Path:
    """Write train, validation and test files and the task.yaml; return `folder`.

    Args:
        name: one of `NAMES`.
        folder: made where it is not there.
        rows: in train and in test; validation has half of them. At least 3, so that every class is in train.
        settings: more keys of the task.yaml, such as `image_size=64`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for number, (split, short) in enumerate([("train", "train"), ("validation", "val"), ("test", "test")]):
        rng = random.Random(f"{name} {seed} {number}")
        count = max(3, rows // 2) if split == "validation" else max(3, rows)
        lines = [cells for row in range(count) for cells in [ROWS[name](row, split, rng)]]
        splits[split] = f"{name}_{short}.tsv"
        write_tsv(folder / splits[split], lines)
    (folder / "task.yaml").write_text(yaml.safe_dump({"dataset": name, "splits": splits} | settings))
    return folder


def write_tsv(path: Path, rows: list[list[str]]) -> Path:
    """No header, no quoting, every line ended."""
    path.write_text("".join("\t".join(cells) + "\n" for cells in rows), encoding="utf-8", newline="\n")
    return path


def picture(color: str, rng: random.Random, *, other: str | None = None) -> tuple[bytes, tuple[int, ...]]:
    """An encoded picture with a square of `color` (and one of the `other`), and its box in pixels."""
    width, height = rng.randint(40, 56), rng.randint(40, 56)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    side = rng.randint(10, 16)
    left, top = rng.randint(0, width // 2 - side), rng.randint(0, height - side)
    box = (left, top, left + side, top + side)
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=color)
    if other is not None:
        right = rng.randint(width // 2, width - side)
        draw.rectangle((right, top, right + side - 1, top + side - 1), fill=other)
    file = io.BytesIO()
    image.save(file, rng.choice(["PNG", "JPEG"]))
    return file.getvalue(), box


def encoded(data: bytes, rng: random.Random) -> str:
    """Base64 in one of the two alphabets that official files hold."""
    return rng.choice([base64.b64encode, base64.urlsafe_b64encode])(data).decode()


def referring(row: int, split: str, rng: random.Random) -> list[str]:
    color, other = COLORS[row % 3], COLORS[(row + 1) % 3]
    data, box = picture(color, rng, other=other)
    text = rng.choice(["The {} square.", "the small {} square", "a square/box in {}"]).format(color)
    region = ",".join(f"{edge + 0.25 * (place < 2):g}" for place, edge in enumerate(box))
    return [f"{row}_0", str(1000 + row), text, region, encoded(data, rng)]


def entailment(row: int, split: str, rng: random.Random) -> list[str]:
    word = ("entailment", "contradiction", "neutral")[row % 3]
    color = rng.choice(COLORS)
    said = {"entailment": color, "contradiction": COLORS[COLORS.index(color) - 1], "neutral": "heavy"}[word]
    data, _ = picture(color, rng)
    premise = f"A {color} square on white, {rng.choice(NUMBERS)}."
    return [
        f"{row}.jpg#0r1{word[0]}",
        str(row),
        encoded(data, rng),
        f"The square is {said}.",
        premise,
        word,
    ]


def captioning(row: int, split: str, rng: random.Random) -> list[str]:
    color = COLORS[row % 3]
    data, _ = picture(color, rng)
    captions = [f"A {color} square on white.", f"There's one {color} square!"]
    text = captions[0] if split == "train" else "&&".join(captions)
    return [str(row), str(100 + row), text, "square&&ground", encoded(data, rng)]


def question(row: int, split: str, rng: random.Random) -> list[str]:
    color = COLORS[row % 3]
    data, _ = picture(color, rng)
    if row % 2:
        text, answers = "What color is the square?", f"1.0|!+{color}&&0.3|!+dark {color}"
    else:
        text, answers = f"Is the square {color}", "0.3|!+no&&0.9|!+yes"
    objects = rng.choice(["square&&ground", "square", ""])
    return [str(900 + row), str(row), text, answers, objects, encoded(data, rng)]


def classification(names: tuple[str, ...]) -> Callable[[int, str, random.Random], list[str]]:
    def write(row: int, split: str, rng: random.Random) -> list[str]:
        number = row % len(names)
        data, _ = picture(COLORS[number], rng)
        return [encoded(data, rng), str(number + 1), names[number]]

    return write


def _pair(rng: random.Random) -> Iterator[str]:
    first, second = rng.sample(NUMBERS, 2)
    yield f"There are {first} dogs and a cat{rng.choice(['', ' here', ' in the house'])}."
    yield f"There are {first} dogs."
    yield f"There are {second} dogs."
    yield f"Some dogs are {rng.choice(COLORS)}."


def natural_language_inference(row: int, split: str, rng: random.Random) -> list[str]:
    premise, entailed, contradicted, neutral = _pair(rng)
    number = row % 3  # official: 0 neutral, 1 entailment, 2 contradiction
    return [premise, (neutral, entailed, contradicted)[number], str(number)]


def recognising_entailment(row: int, split: str, rng: random.Random) -> list[str]:
    premise, entailed, _, neutral = _pair(rng)
    word = ("entailment", "not_entailment")[row % 2]
    return [str(row), premise, (entailed, neutral)[row % 2], word]


def question_answering(row: int, split: str, rng: random.Random) -> list[str]:
    count, color = rng.choice(NUMBERS), rng.choice(COLORS)
    sentence = (f"He has {count} dogs.", f"The house is {color}.")[row % 2]
    return [str(row), "How many dogs has he?", sentence, ("entailment", "not_entailment")[row % 2]]


def _equal(row: int, rng: random.Random) -> tuple[str, str, str]:
    first, second = rng.sample(NUMBERS, 2)
    color = rng.choice(COLORS)
    again = first if row % 2 else second
    return f"do {first} {color} dogs run", f"{again} {color} dogs do run", str(row % 2)


def duplicate(row: int, split: str, rng: random.Random) -> list[str]:
    first, second, label = _equal(row, rng)
    return [str(row), str(2 * row), str(2 * row + 1), f"{first}?".capitalize(), f"{second} ?", label]


def paraphrase(row: int, split: str, rng: random.Random) -> list[str]:
    first, second, label = _equal(row, rng)
    return [f"{first.capitalize()}.", f'" {second} ."', label]


def sentiment(row: int, split: str, rng: random.Random) -> list[str]:
    word = rng.choice([("dull", "bad", "poor"), ("fine", "good", "great")][row % 2])
    return [f"a {word} film with {rng.choice(NUMBERS)} {rng.choice(COLORS)} dogs", str(row % 2)]


ROWS: dict[str, Callable[[int, str, random.Random], list[str]]] = {
    **dict.fromkeys(REFERRING, referring),
    "snli-ve": entailment,
    "coco-captions": captioning,
    "vqav2": question,
    **{name: classification(names) for name, names in IMAGE_CLASSES.items()},
    "mnli": natural_language_inference,
    "qqp": duplicate,
    "mrpc": paraphrase,
    "qnli": question_answering,
    "rte": recognising_entailment,
    "sst2": sentiment,
}
