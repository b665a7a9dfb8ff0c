"""The files of a built-in data set as examples with the numbers of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pituning.datasets.cells import Cells, OfficialCells, TableCells
from pituning.datasets.definition import Dataset
from pituning.datasets.pictures import Pictures
from pituning.datasets.rows import READ
from pituning.errors import TaskError
from pituning.example import Example
from pituning.faults import faults_by_kind
from pituning.readers import Table, read_split, read_table, require_file
from pituning.safe_files import permitted
from pituning.spelling import did_you_mean

R = TypeVar("R")

_PATHS = {"image": ("image_path", "file_name")}
"""Field -> names under which the task file may map it too."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The examples of a file, each with the number of its row (from 1).

    Attributes:
        where: field -> its column in words.
    """

    path: Path
    where: Mapping[str, str]
    examples: tuple[tuple[int, Example], ...]


def read_rows(
    path: Path, split: str, dataset: Dataset, columns: Mapping[str, str], *, sizes: bool = False
) -> Rows:
    """The rows of an official .tsv file, or of a table (.parquet, .jsonl, .csv) with named columns.

    Args:
        path: the file; for classes of images also a folder with one subfolder a class.
        split: train, validation or test.
        dataset: what to read.
        columns: our field -> the table's column, where it has another name.
        sizes: whether a table's boxes are x, y, width, height.

    Raises:
        TaskError: every fault of the file, by kind, with rows and column.
    """
    if path.is_dir() and dataset.kind == "image-classification":
        return Rows(path=path, where={"label": "its folders"}, examples=_numbered(read_split(path, columns)))
    if path.suffix == ".tsv":
        require_file(path)
        where = {column.field: column.official for column in dataset.columns}
        return _collected(path, where, _lines(path), _official(dataset, where), split)
    table = read_table(path)
    chosen = _chosen(table, dataset, columns)
    where = {field: f"column {name!r}" for field, name in chosen.items()}
    rows = enumerate(table.rows, 1)
    return _collected(path, where, rows, _of_table(table, dataset, chosen, where, sizes), split)


def _numbered(examples: Iterable[Example]) -> tuple[tuple[int, Example], ...]:
    return tuple(enumerate(examples, 1))


def _collected(
    path: Path,
    where: Mapping[str, str],
    rows: Iterable[tuple[int, R]],
    make: Callable[[R], Cells],
    split: str,
) -> Rows:
    """The examples of `rows`, or every fault of theirs."""
    examples: list[tuple[int, Example]] = []
    faults: list[tuple[int, TaskError]] = []
    for number, row in rows:
        try:
            cells = make(row)
            examples += ((number, example) for example in READ[cells.dataset.kind](cells, split))
        except TaskError as fault:
            faults.append((number, fault))
    TaskError.collect(faults_by_kind(path.name, faults))
    if not examples:
        raise TaskError("a split must have at least one example", f"{path} with 0 rows", "Add rows.")
    return Rows(path=path, where=where, examples=tuple(examples))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """One by one; such files are too large to be held."""
    try:
        with permitted(TaskError), path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except OSError as fault:
        raise TaskError("a .tsv file must be readable", f"{path} {fault}", "Check the file.") from fault


def _official(dataset: Dataset, where: Mapping[str, str]) -> Callable[[bytes], Cells]:
    pictures = Pictures()
    wanted = max(column.place for column in dataset.columns) + 1

    def cells(line: bytes) -> Cells:
        try:
            parts = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as fault:
            must, given = "a row must be text in UTF-8", f"byte {fault.start + 1} is {line[fault.start]:#x}"
            raise TaskError(must, given, "Write the file in UTF-8.") from fault
        for column in dataset.columns:
            if column.place >= len(parts):
                fix = f"Write {wanted} cells with tabs between them (no quotes, no line of column names)."
                raise TaskError(f"{column.official} must be there", f"{len(parts)} cells", fix)
        values = {column.field: parts[column.place] for column in dataset.columns}
        return OfficialCells(dataset=dataset, values=values, where=where, pictures=pictures)

    return cells


def _of_table(
    table: Table, dataset: Dataset, chosen: Mapping[str, str], where: Mapping[str, str], sizes: bool
) -> Callable[[Mapping[str, Any]], Cells]:
    pictures = Pictures()
    names = table.class_names.get(chosen.get("label", ""), ())

    def cells(row: Mapping[str, Any]) -> Cells:
        return TableCells(
            dataset=dataset,
            values={field: row.get(name) for field, name in chosen.items()},
            where=where,
            pictures=pictures,
            folder=table.path.parent,
            class_names=names,
            sizes=sizes,
        )

    return cells


def _chosen(table: Table, dataset: Dataset, columns: Mapping[str, str]) -> dict[str, str]:
    """Our field -> the table's column."""
    faults, chosen = [], {}
    for column in dataset.columns:
        field = column.field
        mapped = [columns[ours] for ours in (field, *_PATHS.get(field, ())) if ours in columns]
        names = tuple(mapped) or column.names
        found = [name for name in names if name in table.columns]
        asked = field not in ("text_a", "text_b") or f"{{{field}}}" in dataset.prompt
        if found:
            chosen[field] = found[0]
        elif mapped or (column.needed and asked):
            faults.append(_missing(table, names, field))
    TaskError.collect(faults)
    return chosen


def _missing(table: Table, names: tuple[str, ...], field: str) -> TaskError:
    near = next((near for name in names if (near := did_you_mean(name, table.columns))), "")
    return TaskError(
        f"{table.path.name} must have a column {' or '.join(map(repr, names))}",
        f"columns {', '.join(map(repr, table.columns))}",
        f"{near}Rename it, or map it in the task file: `columns: {{{field}: THEIR_NAME}}`.",
    )
