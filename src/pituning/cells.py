"""The cells of a row, whatever the file format, as an example."""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pituning.errors import TaskError
from pituning.example import Example
from pituning.safe_files import permitted

INPUTS = ("text_a", "text_b", "image", "image_path", "file_name")
ANSWERS = ("label", "references", "bbox")
FIELDS = INPUTS + ANSWERS
"""Our column names. `image` holds bytes (Parquet) or base64; `image_path` and `file_name` hold a path
relative to the table."""


def read_row(cells: Mapping[str, Any], folder: Path) -> Example:
    """The example that a row of `cells` (our column name -> value) describes; paths start at `folder`.

    Raises:
        TaskError: a cell of the wrong type, a box that is none, an image file that is not there.

    Example:
        >>> read_row({"text_a": "2 + 2", "label": 4}, Path()).label
        '4'
    """
    image = read_image(cells.get("image"))
    file = read_text(cells.get("image_path")) or read_text(cells.get("file_name"))
    if image is None and file is not None:
        image = read_image_file(folder, file)
    return Example(
        text_a=read_text(cells.get("text_a")),
        text_b=read_text(cells.get("text_b")),
        image=image,
        label=read_text(cells.get("label")),
        references=_references(cells.get("references")),
        bbox=read_box(cells.get("bbox")),
    )


def read_image_file(folder: Path, file: str) -> bytes:
    """The bytes of an image file whose path starts at `folder`.

    Raises:
        TaskError: there is no such file, or it may not be read.
    """
    try:
        with permitted(TaskError):
            return (folder / file).read_bytes()
    except OSError as fault:
        raise TaskError(
            "a path to an image must lead, from its table, to a file",
            f"{file!r} ({fault.strerror})",
            "Mend the path, or add the file.",
        ) from fault


def read_text(cell: Any) -> str | None:
    """A cell as text: an empty cell is None, a truth value "true" or "false", 4.0 is "4"."""
    if cell is None or cell == "" or cell != cell:
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, list | dict | bytes):
        raise TaskError(
            "a text cell must be text or a number", f"a {type(cell).__name__}", "Write one text a cell."
        )
    return str(cell)


def read_json(cell: Any, brackets: tuple[str, ...] = ("[",)) -> Any:
    """What a text that begins with one of `brackets` holds as JSON (CSV); any other cell as it is.

    Raises:
        TaskError: it is a list as Python or NumPy writes it, and no JSON.

    Example:
        >>> read_json('["a dog", "a cat"]'), read_json("[sic] a text")
        (['a dog', 'a cat'], '[sic] a text')
    """
    if not isinstance(cell, str) or not cell.startswith(brackets):
        return cell
    try:
        return json.loads(cell)
    except (json.JSONDecodeError, RecursionError) as fault:
        if _is_python(cell):
            fix = 'Write ["one", "two"]: json.dumps does, `to_csv` of pandas does not.'
            raise TaskError("a list in a cell is written as JSON", repr(cell[:60]), fix) from fault
        return cell


def _is_python(text: str) -> bool:
    try:
        ast.literal_eval(text)  # literals alone: nothing is called or looked up
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _references(cell: Any) -> tuple[str, ...]:
    """A list, a list written as JSON (CSV), or one text."""
    cell = read_json(cell)
    texts = [read_text(item) for item in (cell if isinstance(cell, list) else [cell])]
    return tuple(text for text in texts if text is not None)


def read_box(cell: Any) -> tuple[float, float, float, float] | None:
    """Four numbers in a list, or written as text with commas or blanks between them."""
    if cell is None or cell == "":
        return None
    parts = re.split(r"[,\s]+", cell.strip("[]() ")) if isinstance(cell, str) else cell
    try:
        x0, y0, x1, y1 = map(float, parts)
    except (TypeError, ValueError) as fault:
        raise TaskError("bbox must be four numbers", f"{cell!r}", "Write x0, y0, x1, y1.") from fault
    return (x0, y0, x1, y1)


def read_image(cell: Any) -> bytes | None:
    """Bytes, base64 (also as a data URL), or the {bytes, path} of Hugging Face datasets."""
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    if cell is None or cell == "":
        return None
    if isinstance(cell, bytes):
        return cell
    try:
        return base64.b64decode("".join(cell.split(",")[-1].split()), validate=True)
    except (AttributeError, binascii.Error, ValueError) as fault:
        raise TaskError(
            "an image cell must be bytes or base64",
            f"{str(cell)[:40]!r}",
            "Put the path of an image file under file_name instead.",
        ) from fault
