"""Parquet, JSONL, CSV, TSV and image folders as examples. Nothing is unpickled."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pituning.cells import ANSWERS, FIELDS, read_image_file, read_row
from pituning.errors import TaskError
from pituning.example import Example
from pituning.faults import faults_by_kind
from pituning.safe_files import permitted
from pituning.spelling import did_you_mean, did_you_mean_file

TABLES = (".parquet", ".jsonl", ".csv", ".tsv")
IMAGES = ("image", "image_path", "file_name")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as read: column name -> value.

    Attributes:
        class_names: column -> the names that its integers stand for (a ClassLabel of Hugging Face datasets).
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find_splits(folder: Path, names: Mapping[str, str]) -> dict[str, Path]:
    """Split -> its table or image folder, for the splits that `folder` holds.

    A table (`train.csv`) comes before an image folder (`train/`); a lone `metadata.csv` (or .jsonl) is train.

    Args:
        folder: where to look.
        names: accepted file stem -> split.

    Raises:
        TaskError: two tables or two image folders for one split.
    """
    found: dict[str, list[Path]] = {}
    for kind in (_tables, _image_folders):
        here: dict[str, list[Path]] = {}
        for name, split in names.items():
            here.setdefault(split, []).extend(kind(folder, name))
        found = {split: found.get(split) or paths for split, paths in here.items()}
    if not found.get("train"):
        found["train"] = _tables(folder, "metadata")
    for split, paths in found.items():
        if len(paths) > 1:
            raise TaskError(
                "a split must have one file",
                f"{' and '.join(path.name for path in paths)} for {split} in {folder}",
                f"Name the one to read in the task file: `splits: {{{split}: {paths[0].name}}}`.",
            )
    return {split: paths[0] for split, paths in found.items() if paths}


def read_split(path: Path, columns: Mapping[str, str], names: Sequence[str] = ()) -> tuple[Example, ...]:
    """The examples of a table, or of a folder with a `metadata` table or one subfolder of images a label.

    Args:
        path: a .parquet, .jsonl, .csv or .tsv file, or a folder.
        columns: our column name -> the file's, where they differ.
        names: what the numbers in the column of labels stand for; see `names_of_labels`.

    Raises:
        TaskError: the file is missing, broken, empty, or lacks a column; a cell cannot be read (row named).
    """
    if path.is_dir():
        tables = _tables(path, "metadata")
        if not tables:
            return _read_class_folders(path)
        path = tables[0]
    table = read_table(path)
    return _examples(table, _chosen_columns(table, columns), names)


def names_of_labels(path: Path, columns: Mapping[str, str]) -> Sequence[str]:
    """The names that a Parquet file has for the numbers in its column of labels; () where it has none."""
    if path.suffix != ".parquet" or not path.is_file():
        return ()
    import pyarrow as pa  # lazy: as below
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, ValueError, OSError):  # told where it is read
        return ()
    return _class_names(metadata.get(b"huggingface")).get(columns.get("label", "label"), ())


def require_file(path: Path) -> None:
    """Raise TaskError where a split's file is not there."""
    if not path.exists():
        fix = f"{did_you_mean_file(path)}Mend `splits`."
        raise TaskError("the file of a split must exist", f"{path}, which does not", fix)


def read_table(path: Path) -> Table:
    """The rows of a .parquet, .jsonl, .csv or .tsv file with named columns.

    Raises:
        TaskError: the file is missing, broken or empty.
    """
    require_file(path)
    if path.suffix not in TABLES:
        fix = "Convert it, or name another file under `splits`."
        raise TaskError(f"a data file must be one of {', '.join(TABLES)}", str(path), fix)
    try:
        with permitted(TaskError):
            table = _READERS[path.suffix](path)
    except UnicodeDecodeError as fault:
        raise _broken(path, str(fault), "Save it as UTF-8.") from fault
    except OSError as fault:
        raise _broken(path, str(fault)) from fault
    if not table.rows:
        raise TaskError(
            "a split must have at least one example", f"{path} with 0 rows", "Add rows, or remove the file."
        )
    return table


def _tables(folder: Path, stem: str) -> list[Path]:
    return [path for suffix in TABLES if (path := folder / f"{stem}{suffix}").is_file()]


def _image_folders(folder: Path, name: str) -> list[Path]:
    path = folder / name
    return [path] if path.is_dir() and (_tables(path, "metadata") or _label_folders(path)) else []


def _label_folders(folder: Path) -> list[Path]:
    """By name; what is hidden is some program's (`.ipynb_checkpoints`)."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_class_folders(folder: Path) -> tuple[Example, ...]:
    files = [file for label in _label_folders(folder) for file in pictures_in(label)]
    all_files = {file for file in folder.rglob("*") if _is_picture(file) and file.is_file()}
    hidden = {file for file in all_files if any(p.startswith(".") for p in file.relative_to(folder).parts)}
    elsewhere = sorted(all_files - hidden - {*files})
    if elsewhere:
        given = f"{len(elsewhere)} elsewhere, such as {elsewhere[0]}"
        must = f"a picture lies in the folder of its label, as {folder.name}/LABEL/picture.png"
        raise TaskError(must, given, "Move or remove what is elsewhere.")
    contents = {file: read_image_file(file.parent, file.name) for file in files}
    TaskError.collect([fault for pair in contents.items() if (fault := _no_picture(*pair))])
    if not contents:
        fix = "Lay it out as train/LABEL/picture.png, or add a metadata.csv with a file_name column."
        raise TaskError("an image folder must hold images", f"none in {folder}", fix)
    return tuple(
        Example(image=content, label=file.parent.name, place=str(file)) for file, content in contents.items()
    )


def pictures_in(folder: Path) -> list[Path]:
    """Files that are named as pictures, by name."""
    return sorted(file for file in folder.iterdir() if _is_picture(file))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and not file.name.startswith(".")


def empty_folders(path: Path) -> list[str]:
    """The labels of a folder of pictures that have none."""
    if not path.is_dir() or _tables(path, "metadata"):
        return []
    return [folder.name for folder in _label_folders(path) if not pictures_in(folder)]


def _no_picture(file: Path, content: bytes) -> TaskError | None:
    """The fault of a file that does not begin as a picture; the rest of it is decoded later."""
    from PIL import Image  # lazy: text tasks do without

    try:
        Image.open(io.BytesIO(content)).close()
    except Exception as fault:  # decoders of broken files raise errors of every kind
        must, fix = "an image must be a file that Pillow can decode", "Replace or remove the file."
        return TaskError(must, f"{file} ({type(fault).__name__})", fix)
    return None


def _broken(path: Path, given: str, fix: str = "Mend the file.") -> TaskError:
    return TaskError(f"a {path.suffix} file must be readable", f"{path} {given}", fix)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa  # lazy: a fifth of a second that --help does not need
    import pyarrow.parquet as pq

    try:
        # Not read_table, which takes columns from folders called a=b.
        with path.open("rb") as content, pq.ParquetFile(content) as file:
            table = file.read()
        names = _class_names((table.schema.metadata or {}).get(b"huggingface"))
        return Table(path=path, columns=table.column_names, rows=table.to_pylist(), class_names=names)
    except (pa.ArrowException, ValueError) as fault:
        raise _broken(path, f"is truncated or not Parquet ({fault})") from fault


def _class_names(metadata: bytes | None) -> dict[str, Sequence[str]]:
    """Column -> class names, of the schema metadata that Hugging Face datasets writes."""
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
        labels = {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, AttributeError, ValueError):  # another program's metadata
        return {}
    return {
        column: tuple(map(str, feature["names"]))
        for column, feature in labels.items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def _read_jsonl(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as fault:
                raise _broken(path, f"line {number}, column {fault.colno}: {fault.msg}") from fault
            except RecursionError as fault:
                raise _broken(path, f"line {number}: {fault}") from fault
            if not isinstance(row, dict):
                raise _broken(path, f"line {number}: {type(row).__name__} instead of an object")
            rows.append(row)
    return Table(path=path, columns=list(dict.fromkeys(key for row in rows for key in row)), rows=rows)


def _read_delimited(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file, _long_cells():
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            if len(header) == 1 and any(separator in header[0] for separator in ";|\t"):
                fix = "Separate the columns by commas (.csv) or tabs (.tsv)."
                raise _broken(path, f"has one column, {header[0]!r}", fix)
            if len(set(header)) != len(header):
                raise _broken(path, f"names a column twice: {', '.join(header)}")
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    counts = f"{len(cells)} cells under {len(header)} column names"
                    raise _broken(path, f"line {reader.line_num}: {counts}")
                rows.append(dict(zip(header, cells, strict=True)))
        except csv.Error as fault:
            raise _broken(path, f"line {reader.line_num}: {fault}") from fault
    return Table(path=path, columns=header, rows=rows)


_READERS = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
}


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell hold an image in base64; csv stops at 131,072 characters."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _chosen_columns(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the file's, for the columns to read."""
    faults = [
        _missing(table, f"{theirs!r}", theirs, ours)
        for ours, theirs in columns.items()
        if theirs not in table.columns
    ]
    chosen = {name: columns.get(name, name) for name in FIELDS}
    if not {"text_a", *IMAGES}.intersection([*columns, *table.columns]) and "text" not in columns.values():
        chosen["text_a"] = "text"  # as many tables of texts have it; beside a picture, it may be the answer
    chosen = {ours: theirs for ours, theirs in chosen.items() if theirs in table.columns}
    if not faults and not {"text_a", *IMAGES} & set(chosen):
        faults.append(_missing(table, "'text_a', 'image' or 'file_name'", "text_a", "text_a"))
    if not faults and not set(ANSWERS) & set(chosen):
        faults.append(_missing(table, "'label', 'references' or 'bbox'", "label", "label"))
    TaskError.collect(faults)
    return chosen


def _missing(table: Table, wanted: str, nearest_to: str, ours: str) -> TaskError:
    free = [column for column in table.columns if column == ours or column not in FIELDS]
    return TaskError(
        f"{table.path.name} must have a column {wanted}",
        f"columns {', '.join(map(repr, table.columns))}",
        f"{did_you_mean(nearest_to, free)}Rename it, or map it in the task file: "
        f"`columns: {{{ours}: THEIR_NAME}}`.",
    )


def _examples(table: Table, chosen: Mapping[str, str], names: Sequence[str]) -> tuple[Example, ...]:
    examples: list[Example] = []
    faults: list[tuple[int, TaskError]] = []
    for number, row in enumerate(table.rows, 1):
        try:
            cells = {ours: row.get(theirs) for ours, theirs in chosen.items()}
            cells["label"] = _named(cells.get("label"), names)
            examples.append(read_row(cells, table.path.parent))
        except TaskError as fault:
            faults.append((number, fault))
    TaskError.collect(faults_by_kind(table.path.name, faults))
    return tuple(examples)


def _named(label: Any, names: Sequence[str]) -> Any:
    """A label's name, where it is the number of one; else the label."""
    if isinstance(label, str) and label.isdecimal() and label not in names:
        label = int(label)
    return names[label] if type(label) is int and 0 <= label < len(names) else label
