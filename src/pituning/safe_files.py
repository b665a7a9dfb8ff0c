"""Reading JSON and safetensors that anyone may have written: checked before memory is taken, nothing run."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, final

import yaml
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pituning.errors import PituningError

# An adapter is small beside its model: that of rank 256 on every layer of a 70 B model has 7 GB.
MOST_TENSOR_BYTES = 16 << 30
MOST_JSON_BYTES = 16 << 20
MOST_DIMENSIONS = 8

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
ESCAPE = re.compile(r"\\[ubf]")  # with which a text without unprintable characters can name one
UNPRINTABLE = re.compile("[^\t\n\r -~\xa0-\ud7ff\ue000-\U0010ffff]")


def read_file(path: Path, *, follow: bool = False, header: bool = True) -> bytes:
    """The whole file, its size (and a safetensors file's header) checked before it is read.

    Args:
        follow: also read what a link points to, as in the Hub's cache.
        header: check it; not needed where the content's hash is known.

    Raises:
        OSError, ValueError: it is missing, no regular file, or its sizes are not right.
    """
    # A pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    if not follow and path.is_symlink():
        raise ValueError("it is a link, which is never followed")
    with open(os.open(path, flags), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is no regular file")
        if path.suffix == ".safetensors":
            if facts.st_size > MOST_TENSOR_BYTES:
                raise ValueError(f"it has {facts.st_size} bytes, more than {MOST_TENSOR_BYTES}")
            if header:
                _read_header(file, facts.st_size)
                file.seek(0)
        elif facts.st_size > MOST_JSON_BYTES:
            raise ValueError(f"it has {facts.st_size} bytes, more than {MOST_JSON_BYTES}")
        return file.read()


@contextmanager
def permitted(kind: type[PituningError]) -> Iterator[None]:
    """Raise a fault of this kind for what permissions keep from being read: it is not damaged."""
    try:
        yield
    except PermissionError as error:
        if error.filename is None:
            raise kind("files must be readable", str(error), "Its owner can permit it.") from error
        path = Path(error.filename)
        locked = next((one for one in reversed(path.parents) if not os.access(one, os.X_OK)), path)
        fix = f"Its owner can permit it: `chmod u+rX {shlex.quote(str(locked))}`."
        raise kind("files must be readable", f"{locked}, which may not be read", fix) from error


def check_tensors(content: bytes) -> None:
    """The check of a safetensors file's header that `read_file` makes.

    Raises:
        ValueError: it does not explain every byte.
    """
    _read_header(io.BytesIO(content), len(content))


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file that `read_file` accepted.

    Raises:
        ValueError: it is not whole.
    """
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return tensors


def parse_metadata(content: bytes) -> dict[str, str]:
    """The texts in a safetensors file's header.

    Raises:
        ValueError: the header is not JSON.
    """
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = parse_json(content[8 : 8 + length]).get("__metadata__", {})
    return found


def parse_json(content: bytes) -> Any:
    """JSON in UTF-8, with no key twice, no NaN or infinity, no control or lone surrogate characters.

    Raises:
        ValueError: otherwise.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from error
    try:
        found = json.loads(
            text, object_pairs_hook=without_doubles, parse_constant=_finite, parse_float=_finite
        )
        suspicious = ESCAPE.search(text) or UNPRINTABLE.search(text)
        if suspicious and (odd := UNPRINTABLE.search("".join(_texts(found)))):
            raise ValueError(f"it holds the character {odd[0]!r}")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return found


@final
class UniqueKeyLoader(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, with no key twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raise ConstructorError, with the line, where a key stands twice."""
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                told = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=told, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's keys and values; raises ValueError where a key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _texts(value: Any) -> Iterator[str]:
    """Every key and string of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        value = [*value.values()]
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _read_header(file: BinaryIO, size: int) -> None:
    """Check that what a safetensors header declares fills the file exactly.

    Raises:
        ValueError: it does not, or a tensor is of a type that no adapter has.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MOST_JSON_BYTES):
        raise ValueError(f"its {size} bytes have no room for the header of {length} bytes that it declares")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    extents = []
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
                raise ValueError("its metadata are not texts by name")
            continue
        extents.append(_extent(name, entry))
    end = 0
    for start, stop in sorted(extents):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a gap at byte {end}")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"its tensors declare {end} bytes, and {size - 8 - length} are there")


def _extent(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor starts and ends, which its type and shape must explain."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name!r} is of type {dtype!r}, not one of {', '.join(ITEM_BYTES)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{name!r} has a shape or offsets that are not natural numbers")
    if len(shape) > MOST_DIMENSIONS or len(offsets) != 2:
        raise ValueError(f"{name!r} has {len(shape)} dimensions and {len(offsets)} offsets")
    start, stop = offsets
    if stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"{name!r} of shape {shape} and type {dtype} does not have {stop - start} bytes")
    return start, stop
