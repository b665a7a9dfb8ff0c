"""From a scene to pixels, the same bit for bit on every machine.

Drawn with NumPy at four times the resolution and averaged in whole numbers, and stored without compression:
Pillow's curves and zlib's bytes differ between versions, and the bytes of a picture decide which examples a
few-shot task draws and whether a stored embedding is stale.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from pituning.mini20.definition import PIXELS
from pituning.mini20.scenes import RGB, Background, Patch, Scene, Thing

FINE = 4
"""Samples along a pixel's side."""

_FULL = FINE * FINE
_RIM = {True: 5, False: 8}
"""Samples that the rim of a small and a large hollow shape is wide: the arms of a small cross have a hole."""

Pixels = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Grid = npt.NDArray[np.float64]


def render(scene: Scene) -> Image.Image:
    """The picture, `PIXELS` a side, in RGB."""
    return Image.fromarray(pixels_of(scene))


def picture(scene: Scene) -> bytes:
    """The picture as a PNG file, for `Example.image`."""
    return png(pixels_of(scene))


def pixels_of(scene: Scene) -> Pixels:
    """Red, green and blue, uint8 [PIXELS, PIXELS, 3]."""
    canvas = _background(scene.background)
    for thing in scene.things:
        _draw(canvas, thing)
    if scene.cover is not None:
        _draw_cover(canvas, scene.cover)
    return canvas.astype(np.uint8)


def png(pixels: Pixels) -> bytes:
    """An uncompressed PNG file of uint8 [height, width, 3], of at most 65,535 bytes.

    Example:
        >>> png(np.zeros((2, 2, 3), np.uint8))[:4]
        b'\\x89PNG'
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    data = rows.tobytes()
    size = len(data)
    stored = b"\x78\x01\x01" + struct.pack("<HH", size, size ^ 0xFFFF) + data
    stored += struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _background(ground: Background) -> Whole:
    first, second = np.array(ground.first, np.int64), np.array(ground.second, np.int64)
    along = np.arange(PIXELS, dtype=np.int64)
    if ground.kind == "gradient":
        share = along[:, None, None] if ground.seed % 2 else along[None, :, None]
        mixed: Whole = np.floor_divide(first * (PIXELS - 1 - share) + second * share, PIXELS - 1)
        return np.broadcast_to(mixed, (PIXELS, PIXELS, 3)).copy()
    canvas = np.broadcast_to(first, (PIXELS, PIXELS, 3)).copy()
    if ground.kind == "bands":
        width = 6 + ground.seed % 7
        odd = (along[:, None] + along[None, :] * (ground.seed // 7 % 2)) // width % 2 == 1
        canvas[np.broadcast_to(odd, (PIXELS, PIXELS))] = second
    elif ground.kind == "grain":
        noise = np.frombuffer(Random(ground.seed).randbytes(PIXELS * PIXELS), np.uint8).astype(np.int64)
        canvas += noise.reshape(PIXELS, PIXELS, 1) % 17 - 8
    return canvas.clip(0, 255)


def _draw(canvas: Whole, thing: Thing) -> None:
    body, ink = coverage(thing.look.shape, thing.look.pattern, thing.patch.side)
    part = _part(canvas, thing.patch)
    colours = body[..., None] * np.array(thing.rgb, np.int64) + ink[..., None] * np.array(
        _ink_on(thing.rgb), np.int64
    )
    part[:] = (part * (_FULL - body - ink)[..., None] + colours + _FULL // 2) // _FULL


def _draw_cover(canvas: Whole, cover: Patch) -> None:
    """A grey sheet with a dark rim and folds."""
    part = _part(canvas, cover)
    part[:] = 70
    part[1:-1, 1:-1] = 140
    part[1:-1, 4:-1:5] = 110


def _part(canvas: Whole, patch: Patch) -> Whole:
    return canvas[patch.y : patch.y + patch.side, patch.x : patch.x + patch.side]


def _ink_on(rgb: RGB) -> RGB:
    """White on what is dark, near black on what is bright."""
    return (255, 255, 255) if 3 * rgb[0] + 6 * rgb[1] + rgb[2] < 1300 else (45, 35, 35)


@cache
def coverage(shape: str, pattern: str, side: int) -> tuple[Whole, Whole]:
    """Sixteenths of each pixel in the thing's colour, and in that of its stripes or dots."""
    fine = (np.arange(side * FINE) + 0.5) / (side * FINE) * 2 - 1
    inside = _inside(shape, fine[None, :], fine[:, None])
    if pattern == "hollow":
        return _sixteenths(inside & ~_eroded(inside, _RIM[side < 16])), _sixteenths(inside & False)
    marks = _eroded(inside, FINE) & _marks(pattern, side)  # a rim keeps white marks off a pale background
    return _sixteenths(inside & ~marks), _sixteenths(marks)


def _sixteenths(mask: Mask) -> Whole:
    side = len(mask) // FINE
    found: Whole = mask.reshape(side, FINE, side, FINE).sum(axis=(1, 3), dtype=np.int64)
    return found


def _marks(pattern: str, side: int) -> Mask:
    """Stripes or dots, in phase with the middle so that every thing shows some."""
    step = (4 if side < 16 else 6) * FINE
    place = (np.arange(side * FINE) - side * FINE // 2 + step // 2) % step - step // 2
    x, y = place[None, :], place[:, None]
    if pattern == "striped":
        return np.broadcast_to(2 * np.abs(2 * y + 1) < step, (len(place), len(place)))
    if pattern == "dotted":
        return (2 * x + 1) ** 2 + (2 * y + 1) ** 2 < (step * 5 // 8) ** 2
    return np.zeros((len(place), len(place)), np.bool_)


def _eroded(mask: Mask, steps: int) -> Mask:
    """What is left when the rim is taken off, by turns in four and in eight directions."""
    for step in range(steps):
        wide = np.pad(mask, 1)
        inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:] & mask
        if step % 2:
            inner = inner & wide[:-2, :-2] & wide[:-2, 2:] & wide[2:, :-2] & wide[2:, 2:]
        mask = inner
    return mask


def _inside(shape: str, x: Grid, y: Grid) -> Mask:
    """Whether points lie in a shape that fills the square from -1 to 1; y points down."""
    if shape == "square":
        return (np.abs(x) <= 1) & (np.abs(y) <= 1)
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "diamond":
        return np.abs(x) + np.abs(y) <= 1
    if shape == "cross":
        return (np.abs(x) <= 0.4) | (np.abs(y) <= 0.4)
    if shape == "triangle":
        return np.abs(x) <= (y + 1) / 2
    if shape == "moon":  # a disc less another one, widened to fill the square
        u = 0.801 * x - 0.199
        return (u * u + y * y <= 1) & ((u - 0.55) * (u - 0.55) + y * y > 0.64)
    if shape == "heart":  # (u^2 + v^2 - 1)^3 = u^2 v^3
        u, v = 1.138 * x, 0.118 - 1.118 * y
        bulge = u * u + v * v - 1
        return bulge * bulge * bulge <= u * u * v * v * v
    return _in_polygon(_STAR, x, y)


_STAR = [
    (x / 0.9511, (0.0955 - y) / 0.9045)
    for x, y in (
        *((0.0, 1.0), (0.2821, 0.3883), (0.9511, 0.3090), (0.4565, -0.1483), (0.5878, -0.8090)),
        *((0.0, -0.48), (-0.5878, -0.8090), (-0.4565, -0.1483), (-0.9511, 0.3090), (-0.2821, 0.3883)),
    )
]


def _in_polygon(corners: Sequence[tuple[float, float]], x: Grid, y: Grid) -> Mask:
    """Even-odd rule."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
