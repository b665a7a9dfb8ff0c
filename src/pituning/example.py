"""One example of a task."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from pituning.errors import TaskError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a model reads (texts, an encoded image) and what it should say (a label, texts or a box).

    Attributes:
        weights: the confidence in [0, 1] of each of `references`, where they are answers that people gave.
        place: the file of its own that it was read from, for messages.

    Raises:
        TaskError: a text or the label is no str; `image` is no bytes; `bbox` is not 0 <= x0 < x1 <= 1,
            0 <= y0 < y1 <= 1; weights that are not one a reference.

    Example:
        >>> Example(text_a="what a film", label="positive").label
        'positive'
    """

    text_a: str | None = None
    text_b: str | None = None
    image: bytes | None = field(default=None, repr=False)
    label: str | None = None
    references: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    weights: tuple[float, ...] = ()
    place: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("text_a", "text_b", "label"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TaskError(f"{name} must be a text", repr(value), "Give a str, or None.")
        if not isinstance(self.image, bytes | None):
            fix = "Give the content of the file, such as Path(...).read_bytes()."
            raise TaskError("image must be the bytes of a picture's file", type(self.image).__name__, fix)
        if self.weights:
            self._check_weights()
        if self.bbox is None:
            return
        x0, y0, x1, y1 = self.bbox
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise TaskError(
                "bbox must be x0, y0, x1, y1 as fractions of width and height with x0 < x1 and y0 < y1",
                f"bbox {list(self.bbox)}",
                "Divide pixel coordinates by the image's width and height; give corners, not a width.",
            )

    def _check_weights(self) -> None:
        if len(self.weights) != len(self.references) or not all(0 <= weight <= 1 for weight in self.weights):
            raise TaskError(
                "weights must be one confidence in [0, 1] a reference",
                f"weights {list(self.weights)} for {len(self.references)} references",
                "Give each answer its confidence.",
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content in hex; boxes count to float32, the precision of the files."""
        box = None if self.bbox is None else struct.pack("<4f", *self.bbox).hex()
        weights = [list(self.weights)] if self.weights else []  # without them as before there were any
        return content_hash([self.input_digest, self.label, list(self.references), box, *weights])

    @cached_property
    def input_digest(self) -> str:
        """SHA-256 in hex of what the model reads, whatever the answer."""
        image = None if self.image is None else _image_hash(self.image)
        return content_hash([self.text_a, self.text_b, image])

    def open_image(self) -> Image:
        """The picture in RGB, upright (EXIF), transparent parts laid on white.

        Raises:
            TaskError: there is no image, or it cannot be decoded.
        """
        from PIL import Image, ImageOps  # lazy: text tasks do without

        if self.image is None:
            raise TaskError("the example must have an image", "none", "Add an image or file_name column.")
        try:
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(self.image)))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            return picture.convert("RGB")
        except Exception as fault:  # decoders of broken files raise errors of every kind
            raise TaskError(
                "an image must be a file that Pillow can decode",
                f"{len(self.image)} bytes that cannot be decoded ({str(fault).partition(' <')[0]})",
                "Replace the file, or remove the row.",
            ) from fault


@lru_cache(maxsize=1024)
def _image_hash(image: bytes) -> str:
    """SHA-256 in hex; rows that share a picture share the work."""
    return hashlib.sha256(image).hexdigest()


def content_hash(content: object) -> str:
    """SHA-256 in hex of `content` written as JSON."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def first_by_hash(examples: Iterable[Example], count: int | None) -> list[Example]:
    """At most so many, the same ones whatever the order they come in."""
    return sorted(examples, key=lambda example: example.digest)[:count]
