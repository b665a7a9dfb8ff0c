"""What is taught from real pictures and real text, where `sources` were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from PIL import Image

from pituning.mini20.definition import PIXELS
from pituning.pretrain.samples import Sample
from pituning.pretrain.skills import DESCRIBE, Skill, grained, masked
from pituning.pretrain.sources import Emoji, Gloss


def emoji_skills(emoji: Sequence[Emoji]) -> Mapping[str, tuple[Skill, float]]:
    """Naming one, and finding one of several."""

    def naming(rng: Random) -> Sample:
        chosen = rng.choice(emoji)
        canvas = _ground(rng)
        _place(canvas, chosen, rng, rng.randint(36, PIXELS))
        return Sample(text=DESCRIBE, answer=chosen.name, picture=grained(np.asarray(canvas), rng))

    def finding(rng: Random) -> Sample:
        canvas = _ground(rng)
        shown = rng.sample(emoji, rng.randint(2, 4))
        cells = rng.sample([(x, y) for x in (0, 32) for y in (0, 32)], len(shown))
        boxes = [
            _place(canvas, one, rng, rng.randint(20, 32), cell)
            for one, cell in zip(shown, cells, strict=True)
        ]
        text = f' which region does the text " {shown[0].name} " describe?'
        return Sample(text=text, answer=boxes[0], picture=grained(np.asarray(canvas), rng))

    return {"naming": (naming, 0.12), "finding": (finding, 0.08)}


def _ground(rng: Random) -> Image.Image:
    red, green, blue = (rng.randint(0, 255) for _ in range(3))
    return Image.new("RGB", (PIXELS, PIXELS), (red, green, blue))


def _place(
    canvas: Image.Image, one: Emoji, rng: Random, side: int, cell: tuple[int, int] | None = None
) -> tuple[float, float, float, float]:
    """Draw it, anywhere or in a quarter of the picture; the box of what is not transparent."""
    picture = Image.fromarray(one.picture).resize((side, side), Image.Resampling.BILINEAR)
    room = (PIXELS if cell is None else PIXELS // 2) - side
    left, top = (edge + rng.randint(0, room) for edge in cell or (0, 0))
    canvas.paste(picture, (left, top), picture)
    inside = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox() or (0, 0, side, side)
    x0, y0, x1, y1 = inside
    return (left + x0) / PIXELS, (top + y0) / PIXELS, (left + x1) / PIXELS, (top + y1) / PIXELS


def gloss_skills(glosses: Sequence[Gloss]) -> Mapping[str, tuple[Skill, float]]:
    """The definition of a noun, with words missing."""

    def glossing(rng: Random) -> Sample:
        found = rng.choice(glosses)
        return masked([found.word, "is", *found.text.split()], rng)

    return {"glossing": (glossing, 0.1)}
