"""A task file that names a built-in data set, and its files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pituning.datasets.answers import read_answers
from pituning.datasets.definition import Dataset
from pituning.datasets.files import Rows, read_rows
from pituning.datasets.named import dataset_named
from pituning.description import Description
from pituning.errors import TaskError
from pituning.example import Example
from pituning.faults import faults_by_kind
from pituning.gold import chosen
from pituning.inferred import text_of
from pituning.spelling import did_you_mean

Splits = dict[str, tuple[Example, ...]]

BOX_FORMATS = ("xyxy", "xywh")


def read_dataset(said: Description, files: Mapping[str, Path]) -> tuple[Description, Splits]:
    """The description with what the definition adds, and the examples by split.

    Args:
        said: a task file with `dataset`; what it says goes before the definition.
        files: split -> its file.

    Raises:
        TaskError: an unknown data set, or every fault of the files.
    """
    dataset = dataset_named(said.dataset or "")
    if said.kind not in (None, dataset.kind):
        fix = "Leave kind out, or leave dataset out and describe the columns."
        raise TaskError(f"{dataset.name} must be of kind {dataset.kind}", f"kind {said.kind!r}", fix)
    _check_tables_only(said, files)
    dataset = replace(dataset, prompt=said.prompt or dataset.prompt, words=_words(dataset, said.labels))
    answers = _candidate_answers(said, dataset)
    rows: dict[str, Rows] = {}
    faults = []
    for split, path in files.items():
        try:
            rows[split] = read_rows(path, split, dataset, said.columns, sizes=_sizes(said, dataset))
        except TaskError as fault:
            faults.append(fault)
    TaskError.collect(faults)
    labels = _labels(dataset, rows, answers) if said.labels is None else said.labels
    TaskError.collect(list(_unknown(rows, labels)) if labels else [])
    data = {split: tuple(example for _, example in found.examples) for split, found in rows.items()}
    return _completed(said, dataset, labels), data


def _check_tables_only(said: Description, files: Mapping[str, Path]) -> None:
    """Official files have their columns and corners; nothing about them can be said otherwise."""
    official = [path.name for path in files.values() if path.suffix == ".tsv"]
    given = [key for key in ("columns", "box_format") if getattr(said, key)]
    if official and given:
        raise TaskError(
            "columns and box_format must be of tables (.parquet, .jsonl, .csv)",
            f"{' and '.join(given)} for {', '.join(official)}",
            "Remove them: .tsv files are read in the official format. Save other tables as .csv.",
        )


def _completed(said: Description, dataset: Dataset, labels: Mapping[str, str]) -> Description:
    return replace(
        said,
        name=dataset.name if said.name == said.dataset else said.name,
        modality=said.modality or dataset.modality,
        kind=dataset.kind,
        metric=said.metric or dataset.metric,
        prompt=dataset.prompt,
        labels=labels,
        image_size=dataset.image_size if said.image_size is None else said.image_size,
        decoding={**dataset.decoding.changes(), **said.decoding},
    )


def _words(dataset: Dataset, labels: Mapping[str, str] | None) -> Mapping[str, str]:
    """The words of the files; those that the task file lists as labels stand for themselves."""
    return {word: word if labels and word in labels else ours for word, ours in dataset.words.items()}


def _sizes(said: Description, dataset: Dataset) -> bool:
    """Whether boxes of tables are x, y, width, height."""
    form = said.box_format or "xyxy"
    if form not in BOX_FORMATS or (said.box_format and dataset.kind != "grounding"):
        must = "box_format must be xyxy or xywh, of a data set with boxes"
        raise TaskError(must, f"{form!r} for {dataset.name}", f"{did_you_mean(form, BOX_FORMATS)}Mend it.")
    return form == "xywh"


def _candidate_answers(said: Description, dataset: Dataset) -> tuple[str, ...]:
    """Those of the file that `answers` names; () without one."""
    if said.answers is None:
        return ()
    if dataset.kind != "vqa" or said.labels is not None:
        given = f"answers for {dataset.name}" + (" beside labels" if said.labels is not None else "")
        raise TaskError("answers must be for a data set of questions without labels", given, "Remove it.")
    return read_answers(said.answers)


def _labels(dataset: Dataset, rows: Mapping[str, Rows], answers: Collection[str]) -> Mapping[str, str]:
    """The definition's; else the classes of train, or the answers that the task file or the data give.

    The candidates of questions are the most confident answer of each row of train and validation, as the
    official list is made of both; a validation row whose answer no model may give would have no loss.
    """
    if dataset.labels is not None:
        return dataset.labels
    if dataset.kind != "vqa":
        names = {example.label for _, example in rows["train"].examples}
        return {name: text_of(name) for name in sorted(filter(None, names))}
    if not answers:
        known = [e for split in ("train", "validation") if split in rows for _, e in rows[split].examples]
        answers = sorted({answer for example in known if (answer := chosen(example, ()))})
    return {answer: answer for answer in answers}


def _unknown(rows: Mapping[str, Rows], labels: Mapping[str, str]) -> Iterator[TaskError]:
    """Labels, and answers outside of test, that are no candidates."""
    for split, found in rows.items():
        faults: list[tuple[int, TaskError]] = []
        for number, example in found.examples:
            label = chosen(example, labels)
            if label is None or label in labels or (example.weights and split == "test"):
                continue
            column = found.where["references" if example.weights else "label"]
            must = f"{column} must hold one of the {len(labels)} known {_noun(example)}"
            near = "" if faults else did_you_mean(label, labels)  # slow among thousands
            fix = f"{near}Mend the cell, remove the row, or list the "
            fix += "answer in the file of answers." if example.weights else "class under `labels`."
            faults.append((number, TaskError(must, repr(label), fix)))
        yield from faults_by_kind(found.path.name, faults)


def _noun(example: Example) -> str:
    return "answers" if example.weights else "labels (those of train)"
