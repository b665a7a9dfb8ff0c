"""Inputs, and what was answered to them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody says to an example.

    Attributes:
        who: "gold", or the adapter's title.
        right: whether it is the gold answer; None where that is no question of right and wrong.
        box: (x0, y0, x1, y1) as fractions of the picture, where the answer is a place in it.
    """

    who: str
    text: str
    right: bool | None = None
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class ExampleShown:
    """An input (a text, a PNG file, or both) and the answers to it, the gold one first."""

    text: str = ""
    image: bytes | None = None
    answers: Sequence[Answer]


def example_figure(example: ExampleShown) -> str:
    """The input, with boxes drawn on its picture, and the answers below."""
    picture = ""
    if example.image is not None:
        data = base64.b64encode(example.image).decode()
        boxes = "".join(_rectangle(answer.box, index) for index, answer in enumerate(example.answers))
        over = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        picture = (
            f'<div class="picture"><img alt="the picture of this example" src="data:image/png;base64,{data}">'
            f"{over if boxes else ''}</div>"
        )
    text = f"<p>{escape(example.text)}</p>" if example.text else ""
    answers = "".join(_answer(answer, index) for index, answer in enumerate(example.answers))
    return f'<figure class="example">{picture}<figcaption>{text}<dl>{answers}</dl></figcaption></figure>'


def _answer(answer: Answer, index: int) -> str:
    said = {True: ' <span class="right">✓ right</span>', False: ' <span class="wrong">✗ wrong</span>'}
    sample = ""
    if answer.box:
        line = f'<path class="box box{index}" d="M1 4H25"/>'
        sample = f'<svg class="sample" viewBox="0 0 26 8" aria-hidden="true">{line}</svg> '
    right = "" if answer.right is None else said[answer.right]
    text = escape(answer.text) or "<i>nothing</i>"
    return f"<dt>{sample}{escape(answer.who)}</dt><dd>{text}{right}</dd>"


def _rectangle(box: Box | None, index: int) -> str:
    if box is None:
        return ""
    x0, y0, x1, y1 = box
    place = f'x="{x0:.4f}" y="{y0:.4f}" width="{max(0, x1 - x0):.4f}" height="{max(0, y1 - y0):.4f}"'
    return f'<rect class="halo" {place}/><rect class="box box{index}" {place}/>'
