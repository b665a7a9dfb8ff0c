"""`task.yaml` or `task.json`: what a task folder says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pituning.cells import FIELDS
from pituning.decoding import Decoding
from pituning.errors import TaskError
from pituning.inferred import KINDS, text_of
from pituning.safe_files import UniqueKeyLoader, permitted, without_doubles
from pituning.spelling import did_you_mean, did_you_mean_file

SPLITS: Mapping[str, str] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""Every accepted name of a split, and the split it means."""

KEYS = (
    "name",
    "kind",
    "modality",
    "metric",
    "labels",
    "candidates",
    "prompt",
    "columns",
    "splits",
    "image_size",
    "decoding",
)
"""What a task file may say; `_dataset_keys` beside it, for a dataset that we know by name."""

_FILES = ("task.yaml", "task.yml", "task.json")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A checked task file. None = not said, to be inferred from the data.

    Attributes:
        folder: where the data files are.
        labels: label -> the text a model reads for it, in the order of the file; empty = free-form answers.
        columns: our column name -> the file's column name.
        splits: train, validation or test -> the path of its table or image folder.
        decoding: fields of `Decoding` -> their values, as the file gives them.
        dataset: name of a built-in definition that says what the file leaves out.
        answers: file with the candidate answers of a dataset of questions.
        box_format: how a table of such a dataset writes boxes, "xyxy" or "xywh".
        unread: keys of the file that mean nothing to us.
    """

    folder: Path
    name: str
    modality: str | None = None
    kind: str | None = None
    metric: str | None = None
    prompt: str | None = None
    labels: Mapping[str, str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, Path] = field(default_factory=dict)
    image_size: int | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    answers: Path | None = None
    box_format: str | None = None
    unread: tuple[str, ...] = ()


def read_description(path: Path) -> Description:
    """Read the task file at `path`, or in the folder `path`. Other keys (licence ...) are left alone.

    Raises:
        TaskError: no such file or folder, several task files, broken YAML or JSON (with its line), a key
            that is nearly ours, a value of the wrong type, an unknown column or split.
    """
    file = _task_file(path)
    content = _parse(file)
    dataset_keys = _dataset_keys(content)
    known = {*KEYS, *dataset_keys}
    faults = [_misspelt(file, key, known) for key in content if _is_near(key, known)]
    if content.get("labels") is not None and content.get("candidates") is not None:
        given = f"both in {file.name}"
        faults.append(TaskError("labels and candidates are one setting", given, "Keep one of them."))
    texts = {key: _optional_text(content, key, faults) for key in ("modality", "kind", "metric", "prompt")}
    kind = texts["kind"]
    if kind is not None and kind not in KINDS:
        fix = f"{did_you_mean(kind, KINDS)}Use one of those, or leave kind out."
        faults.append(TaskError(f"kind must be one of {', '.join(KINDS)}", repr(kind), fix))
    name = _optional_text(content, "name", faults)
    dataset = {key: _optional_text(content, key, faults) for key in dataset_keys}
    labels = _labels(content, file, faults)
    decoding = _decoding(content, faults)
    image_size = content.get("image_size")
    if image_size is not None and type(image_size) is not int:
        faults.append(TaskError("image_size must be a whole number", f"{image_size!r}", "Write pixels."))
    columns = _mapping(content, "columns", FIELDS + ("objects",) * bool(dataset_keys), faults)
    named = _mapping(content, "splits", tuple(SPLITS), faults)
    twice = {key for key in named if [SPLITS[other] for other in named].count(SPLITS[key]) > 1}
    if twice:
        faults.append(TaskError("a split must be named once", f"splits {sorted(twice)}", "Keep one of them."))
    TaskError.collect(faults)
    return Description(
        folder=file.parent,
        name=name or dataset.get("dataset") or file.resolve().parent.name,
        labels=labels,
        columns=columns,
        splits={SPLITS[key]: file.parent / value for key, value in named.items()},
        image_size=image_size,
        decoding=decoding,
        dataset=dataset.get("dataset"),
        answers=file.parent / named_file if (named_file := dataset.get("answers")) else None,
        box_format=dataset.get("box_format"),
        unread=tuple(key for key in content if key not in known),
        **texts,
    )


def _dataset_keys(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that mean something beside `dataset` only; elsewhere they are a user's own."""
    return ("dataset", "answers", "box_format") if content.get("dataset") is not None else ()


def _decoding(content: Mapping[str, Any], faults: list[TaskError]) -> Mapping[str, Any]:
    value = content.get("decoding")
    if value is None:
        return {}
    if not isinstance(value, dict):
        faults.append(TaskError("decoding must map names to values", f"{value!r}", "Write {num_beams: 5}."))
        return {}
    try:
        Decoding().changed(value)
    except TaskError as fault:
        faults.append(fault)
    return value


def _task_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix in {".yaml", ".yml", ".json"}:
            return path
        raise TaskError(
            "a task must be a folder or its task.yaml or task.json",
            str(path),
            f"Put a task.yaml beside {path.name} and give the folder.",
        )
    if not path.is_dir():
        fix = f"{did_you_mean_file(path)}Check the path."
        if path.parts[:-1] == ("mini20",):
            fix = "In Python, the generated ones are `mini_task(NAME)` of `pituning.mini20`."
        given = f"{path}, which {'is none' if path.exists() else 'does not exist'}"
        raise TaskError("a task must be an existing folder", given, fix)
    found = [path / name for name in _FILES if (path / name).is_file()]
    if len(found) != 1:
        raise TaskError(
            "a task folder must hold one task.yaml or task.json",
            f"{path} with {' and '.join(file.name for file in found) or 'neither'}",
            "Keep one of them."
            if found
            else "Write a task.yaml; `kind: text-classification` is enough where the columns are text_a and "
            "label, `kind: image-classification` where pictures lie in folders by their labels.",
        )
    return found[0]


@permitted(TaskError)
def _parse(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = _json(text) if file.suffix == ".json" else yaml.load(text, UniqueKeyLoader)
    except PermissionError:
        raise
    except json.JSONDecodeError as fault:
        raise _invalid(file, f"line {fault.lineno}: {fault.msg}") from fault
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise _invalid(file, f"line {line}: {fault.problem}") from fault
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as fault:
        raise _invalid(file, f"{type(fault).__name__}: {fault}") from fault
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _invalid(file, f"{type(content).__name__} at the top")
    return content


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=without_doubles)


def _invalid(file: Path, given: str) -> TaskError:
    language = "JSON" if file.suffix == ".json" else "YAML"
    return TaskError(
        f"{file.name} must be {language} that maps names to values", f"{file} {given}", "Mend that line."
    )


def _is_near(key: str, known: set[str]) -> bool:
    """Whether a key is one of ours with another case, an s too many or too few, or a slip of one letter.

    A slip loses a letter, doubles one, swaps two or writes another; a user's own `n_labels` is none.
    """
    if key in known:
        return False
    slips = {key + "s", key.rstrip("s"), key.lower()}
    slips |= {key[:i] + key[i + 1 :] for i in range(1, len(key)) if key[i] == key[i - 1]}
    slips |= {key[:i] + key[i + 1] + key[i] + key[i + 2 :] for i in range(len(key) - 1)}
    lost = {name[:i] + name[i + 1 :] for name in known for i in range(len(name))}
    other = [name for name in known if key.isalpha() and len(name) == len(key) > 4]
    wrong = any(sum(a != b for a, b in zip(name, key, strict=True)) == 1 for name in other)
    return bool(slips & known) or key in lost or wrong


def _misspelt(file: Path, key: str, known: set[str]) -> TaskError:
    return TaskError(
        "the keys of a task file must be spelt as documented",
        f"key {key!r} in {file.name}",
        f"{did_you_mean(key.lower(), sorted(known))}Rename the key.",
    )


def _optional_text(content: Mapping[str, Any], key: str, faults: list[TaskError]) -> str | None:
    value = content.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if key == "name" and isinstance(value, int):
        return str(value)
    faults.append(TaskError(f"{key} must be text", f"{value!r}", f"Write {key} as text."))
    return None


def _labels(content: Mapping[str, Any], file: Path, faults: list[TaskError]) -> Mapping[str, str] | None:
    value = content.get("labels")
    if value is None:
        value = content.get("candidates")
    if value is None:
        return None
    names = list(value) if isinstance(value, list | dict) else [value]
    texts = list(value.values()) if isinstance(value, dict) else []
    odd = [x for x in names + texts if isinstance(x, bool) or not isinstance(x, str | int | float)]
    if odd or not isinstance(value, list | dict):
        faults.append(
            TaskError(
                "labels must be a list of texts, or a mapping from label to text",
                f"{(odd or [value])[0]!r} in {file.name}",
                'Put each label in quotes: "yes" (without them YAML reads yes, no, on, off as truth values).',
            )
        )
        return None
    if len(set(map(str, names))) != len(names):
        faults.append(TaskError("labels must differ", f"{names}", "Remove the label given twice."))
    if isinstance(value, dict):
        return {str(label): str(text) for label, text in value.items()}
    return {str(label): text_of(str(label)) for label in value}


def _mapping(
    content: Mapping[str, Any], key: str, allowed: tuple[str, ...], faults: list[TaskError]
) -> dict[str, str]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str | None) for v in value.values()):
        faults.append(
            TaskError(
                f"{key} must map names to names", f"{value!r}", f"Write {key} as {{{allowed[0]}: ...}}."
            )
        )
        return {}
    for name in value:
        if name not in allowed:
            near = "Did you mean 'text_a'? " if name == "text" else did_you_mean(str(name), allowed)
            faults.append(
                TaskError(
                    f"the keys of {key} must be ours: {', '.join(allowed)}",
                    f"{name!r}",
                    f"{near}Write our name first, the file's second.",
                )
            )
    return {str(name): text for name, text in value.items() if text is not None and name in allowed}
