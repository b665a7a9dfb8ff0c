"""What a row of each kind of data set asks: its cells as examples, texts cleaned, boxes as fractions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pituning.datasets.cells import Cells, Corners, OfficialCells
from pituning.datasets.pictures import Picture
from pituning.datasets.texts import (
    caption_reference,
    caption_target,
    clean_caption,
    clean_question,
    clean_sentence,
)
from pituning.errors import TaskError
from pituning.example import Example

SLACK = 1.0
"""Pixels by which a box may reach over the image, for rounding; it is cut off there."""


def referring(row: Cells, split: str) -> list[Example]:
    """Which region a text describes; of several texts (in tables) one example each."""
    picture, corners = row.picture(), row.corners()
    with row.column("bbox"):
        bbox = fractions(corners, picture)
    # "&&" means nothing in an official expression.
    texts = [row.text("text_a")] if isinstance(row, OfficialCells) else row.texts("text_a")
    words = row.dataset.source_words
    return [Example(text_a=clean_caption(text, words), image=picture.data, bbox=bbox) for text in texts]


def entailment(row: Cells, split: str) -> list[Example]:
    """Whether a picture and its caption imply a hypothesis."""
    words = row.dataset.source_words
    return [
        Example(
            text_a=clean_caption(row.text("text_a"), words),
            text_b=clean_caption(row.text("text_b"), words),
            image=row.picture().data,
            label=row.label(),
        )
    ]


def captioning(row: Cells, split: str) -> list[Example]:
    """A caption to learn from each row of train (tables: from each caption); all captions elsewhere."""
    image, words = row.picture().data, row.dataset.target_words
    if split != "train":
        references = tuple(filter(None, map(caption_reference, row.texts("references"))))
        return [Example(image=image, references=references)]
    # An official training row has one caption; a stray && is punctuation to the official code.
    texts = [row.text("references")] if isinstance(row, OfficialCells) else row.texts("references")
    return [Example(image=image, references=(caption_target(text, words),)) for text in texts]


def question(row: Cells, split: str) -> list[Example]:
    """A question, its objects where the file has them, and the answers with their confidences."""
    text = clean_question(row.text("text_a"), row.dataset.source_words)
    objects, answers = row.objects(), row.answers()
    return [
        Example(
            text_a=text if text.endswith("?") else text + "?",
            text_b=None if objects is None else f" object: {' '.join(objects[: row.dataset.objects])}",
            image=row.picture().data,
            references=tuple(answers),
            weights=tuple(answers.values()),
        )
    ]


def classification(row: Cells, split: str) -> list[Example]:
    """What a picture shows."""
    return [Example(image=row.picture().data, label=row.label())]


def sentences(row: Cells, split: str) -> list[Example]:
    """One text or two, and a label."""
    words = row.dataset.source_words
    second = clean_sentence(row.text("text_b"), words) if "text_b" in row.values else None
    return [Example(text_a=clean_sentence(row.text("text_a"), words), text_b=second, label=row.label())]


def fractions(corners: Corners, picture: Picture) -> Corners:
    """A box in pixels as fractions of width and height, cut off at the edges of the picture.

    Raises:
        TaskError: it reaches over the picture by more than `SLACK`, or has no area.
    """
    width, height = picture.width, picture.height
    x0, y0, x1, y1 = corners
    given = f"{x0:g},{y0:g},{x1:g},{y1:g} on {width} x {height} pixels"
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        fix = "Give pixels of the picture in the same row: corners, or (tables alone) say `box_format: xywh`."
        raise TaskError("must hold a box inside the picture", given, fix)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if not (x0 < x1 and y0 < y1):
        fix = "Give the upper left corner first; a table of x, y, width, height says `box_format: xywh`."
        raise TaskError("must hold a box x0,y0,x1,y1 with x0 < x1 and y0 < y1", given, fix)
    return (x0 / width, y0 / height, x1 / width, y1 / height)


READ: Mapping[str, Callable[[Cells, str], list[Example]]] = {
    "grounding": referring,
    "visual-entailment": entailment,
    "captioning": captioning,
    "vqa": question,
    "image-classification": classification,
    "text-pair-classification": sentences,
    "text-classification": sentences,
}
"""Kind of data set -> how its rows are read."""
