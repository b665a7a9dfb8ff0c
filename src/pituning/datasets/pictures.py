"""The pictures of a file's rows."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass

from pituning.errors import TaskError

_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class Picture:
    """An encoded picture and its size in pixels, as the header says it."""

    data: bytes
    width: int
    height: int


class Pictures:
    """Keeps one copy of every picture: official files repeat it in each row about it.

    Example:
        >>> Pictures().encoded("no base64")
        Traceback (most recent call last):
        ...
        pituning.errors.TaskError: must hold a picture in base64; given: 'no base64'. Encode the image file.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Picture] = {}

    def encoded(self, cell: str) -> Picture:
        """The picture of a base64 cell, in the standard alphabet or the one safe in URLs.

        Raises:
            TaskError: broken base64, or bytes that are no picture.
        """
        text = cell.encode()
        key = hashlib.sha256(text).digest()
        if key not in self._known:
            try:
                data = base64.b64decode(text.translate(_STANDARD), validate=True)
            except (binascii.Error, ValueError) as fault:
                given = f"{cell[:40]!r}" + (f" ({len(cell)} characters: {fault})" if len(cell) > 40 else "")
                raise TaskError("must hold a picture in base64", given, "Encode the image file.") from fault
            self._known[key] = self.decoded(data)
        return self._known[key]

    def decoded(self, data: bytes) -> Picture:
        """The picture of encoded bytes; only their header is read.

        Raises:
            TaskError: no picture.
        """
        from PIL import Image, UnidentifiedImageError  # lazy: text tasks do without

        key = hashlib.sha256(data).digest()
        if key not in self._known:
            try:
                with Image.open(io.BytesIO(data)) as image:
                    width, height = image.size
            except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as fault:
                raise TaskError(
                    "must hold an image file that Pillow can read (PNG, JPEG ...)",
                    f"{len(data)} bytes that are no picture, beginning with {data[:8]!r}",
                    "Put the bytes of the image file there.",
                ) from fault
            self._known[key] = Picture(data, width, height)
        return self._known[key]
