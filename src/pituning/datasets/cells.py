"""One row: its cells by field, in whichever kind of file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pituning.cells import read_box, read_image, read_image_file, read_json, read_text
from pituning.datasets.answers import official_answers, voted_answers
from pituning.datasets.definition import Dataset
from pituning.datasets.pictures import Picture, Pictures
from pituning.errors import TaskError
from pituning.readers import PICTURES

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Cells(ABC):
    """The cells of a row; each is read when asked for, and its faults name its column.

    Attributes:
        values: field -> the cell; fields without a column are left out.
        where: field -> its column in words.
    """

    dataset: Dataset
    values: Mapping[str, Any]
    where: Mapping[str, str]
    pictures: Pictures

    @contextmanager
    def column(self, field: str) -> Iterator[None]:
        """Name the column of `field` in the faults found in this block."""
        try:
            yield
        except TaskError as fault:
            raise TaskError(f"{self.where[field]} {fault.must}", fault.given, fault.fix) from fault

    def picture(self) -> Picture:
        """The picture."""
        with self.column("image"):
            return self._picture(self.values["image"])

    def texts(self, field: str) -> list[str]:
        """The texts of a cell; at least one. [""] where there is no such column."""
        if field not in self.values:
            return [""]
        with self.column(field):
            texts = [text for text in self._texts(self.values[field]) if text.strip()]
            if not texts:
                raise TaskError("must hold text", "an empty cell", "Fill it, or remove the row.")
            return texts

    def text(self, field: str) -> str:
        """The text of a cell, "" where it is empty or there is no such column."""
        if field not in self.values:
            return ""
        with self.column(field):
            return read_text(self.values[field]) or ""

    def corners(self) -> Corners:
        """The box x0, y0, x1, y1 in pixels."""
        with self.column("bbox"):
            return self._corners(self.values["bbox"])

    def answers(self) -> dict[str, float]:
        """Answer -> confidence."""
        with self.column("references"):
            return self._answers(self.values["references"])

    def objects(self) -> list[str] | None:
        """The objects seen in the picture; None where the file has no such column."""
        if "objects" not in self.values:
            return None
        return [text for text in self._texts(self.values["objects"]) if text]

    def label(self) -> str:
        """The label: one of ours where the data set fixes them, else the name of the class."""
        with self.column("label"):
            word = self._word(self.values["label"])
            known = self.dataset.words
            if not known:
                if word and word != "-1":
                    return word
                raise TaskError("must hold the name of a class", "an empty cell", "Fill it.")
            label = known.get(word.lower(), word)  # our own words are taken too
            if label in known.values():
                return label
            numbers = self._numbers()
            said = f" or 0 to {len(numbers) - 1} ({', '.join(numbers)})" if numbers else ""
            header = " If this is a line of column names, remove it." if "label" in word else ""
            raise TaskError(
                f"must hold one of {', '.join(known)}{said}",
                f"{word!r}" if word else "an empty cell",
                f"Mend the label, or remove rows without one (-1).{header}",
            )

    def _word(self, cell: Any) -> str:
        word = (read_text(cell) or "").strip()
        numbers = self._numbers()
        return numbers[int(word)] if word.isdecimal() and int(word) < len(numbers) else word

    @abstractmethod
    def _numbers(self) -> Sequence[str]:
        """The words that 0, 1 ... stand for."""

    @abstractmethod
    def _picture(self, cell: Any) -> Picture: ...

    @abstractmethod
    def _texts(self, cell: Any) -> list[str]: ...

    @abstractmethod
    def _corners(self, cell: Any) -> Corners: ...

    @abstractmethod
    def _answers(self, cell: Any) -> dict[str, float]: ...


@final
@dataclass(frozen=True, kw_only=True)
class OfficialCells(Cells):
    """A row of an official TSV file: every cell is text."""

    def _numbers(self) -> Sequence[str]:
        return self.dataset.tsv_numbers

    def _picture(self, cell: str) -> Picture:
        return self.pictures.encoded(cell)

    def _texts(self, cell: str) -> list[str]:
        return cell.split("&&")

    def _corners(self, cell: str) -> Corners:
        return _four(cell.split(","), repr(cell[:60]))

    def _answers(self, cell: str) -> dict[str, float]:
        return official_answers(cell)


@final
@dataclass(frozen=True, kw_only=True)
class TableCells(Cells):
    """A row of a Parquet, JSONL or CSV table.

    Attributes:
        folder: where paths of images start.
        class_names: what the integers of the label column stand for, where the file says so.
        sizes: whether boxes are x, y, width, height instead of corners.
    """

    folder: Path
    class_names: Sequence[str] = ()
    sizes: bool = False

    def _numbers(self) -> Sequence[str]:
        return self.class_names or self.dataset.table_numbers

    def _picture(self, cell: Any) -> Picture:
        if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
            return self._of_path(cell["path"])
        if isinstance(cell, str) and Path(cell[-8:]).suffix.lower() in PICTURES:  # base64 has no dot
            return self._of_path(cell)
        if isinstance(cell, str) and cell:
            return self.pictures.encoded("".join(cell.split(",")[-1].split()))  # base64, or a data URL
        data = read_image(cell)
        if data is None:
            raise TaskError("must hold a picture", "an empty cell", "Add it, or remove the row.")
        return self.pictures.decoded(data)

    def _of_path(self, file: str) -> Picture:
        return self.pictures.decoded(read_image_file(self.folder, file))

    def _texts(self, cell: Any) -> list[str]:
        cell = read_json(cell)
        if isinstance(cell, dict):
            cell = next((cell[key] for key in ("raw", "sent", "caption", "text") if key in cell), cell)
        if isinstance(cell, list):
            return [text for item in cell for text in self._texts(item)]
        text = read_text(cell)
        return [] if text is None else text.split("&&")

    def _corners(self, cell: Any) -> Corners:
        x0, y0, x1, y1 = _four(read_box(cell), repr(cell))
        return (x0, y0, x0 + x1, y0 + y1) if self.sizes else (x0, y0, x1, y1)

    def _answers(self, cell: Any) -> dict[str, float]:
        return voted_answers(cell)


def _four(parts: Sequence[Any] | None, given: str) -> Corners:
    try:
        x0, y0, x1, y1 = map(float, parts or ())
        if all(map(math.isfinite, (x0, y0, x1, y1))):
            return (x0, y0, x1, y1)
    except ValueError:
        pass
    raise TaskError("must hold four numbers x0,y0,x1,y1 in pixels", given, "Mend the box.")
