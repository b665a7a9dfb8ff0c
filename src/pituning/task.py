"""A task: its examples, what a model reads and answers, and how answers are scored."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from string import Formatter

from pituning import metrics
from pituning.datasets import read_dataset
from pituning.decoding import Decoding
from pituning.description import SPLITS, read_description
from pituning.errors import ConfigError, TaskError
from pituning.example import Example, content_hash
from pituning.faults import image_faults, leaks, row_faults
from pituning.few_shot import draw
from pituning.gold import chosen, confidences, gold_of
from pituning.inferred import (
    KINDS,
    MODALITIES,
    infer_kind,
    infer_labels,
    infer_metric,
    infer_modality,
    misfit,
    text_of,
)
from pituning.readers import TABLES, empty_folders, find_splits, names_of_labels, pictures_in, read_split
from pituning.safe_files import permitted
from pituning.settings import alike, setting_faults
from pituning.spelling import did_you_mean, listed

__all__ = ["KINDS", "MODALITIES", "Decoding", "Example", "Task", "load_task"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Examples of one task in up to three splits.

    Attributes:
        modality: "text", "image" or "image+text".
        kind: one of `KINDS`; it says what the task is and chooses nothing.
        metric: a name in `metrics.METRICS` (aliases and case are resolved).
        candidates: the labels to choose from, in the order of their indices; empty = free-form answers.
        candidate_texts: what a model reads for each candidate; default: the label, spaces for underscores.
        prompt: template with {text_a} and {text_b}; None = the texts, one a line.
        source: fingerprint of the training data before any sampling.
        image_size: pixels of a side that a model that resizes images gives them; None = the model's own.
        decoding: how answers are generated, and what the decoder reads first.

    Raises:
        TaskError: unknown modality or metric, a text for no candidate, candidates that a model reads alike or
            as nothing, a prompt with other fields.

    Example:
        >>> task = load_task("sst2").sample(shots=16, seed=0)  # doctest: +SKIP
        >>> task.text(task.train[0]), task.answer(task.train[0])  # doctest: +SKIP
        ('an absorbing , slice-of-depression life ...', 'positive')
    """

    name: str
    modality: str
    kind: str
    metric: str
    candidates: tuple[str, ...] = ()
    candidate_texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    prompt: str | None = None
    train: tuple[Example, ...] = field(default=(), repr=False)
    validation: tuple[Example, ...] = field(default=(), repr=False)
    test: tuple[Example, ...] = field(default=(), repr=False)
    source: str = ""
    image_size: int | None = None
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        said = (self.modality, self.metric, self.candidates, self.candidate_texts, self.prompt)
        TaskError.collect(list(setting_faults(*said, image_size=self.image_size)))
        texts = {label: text_of(label) for label in self.candidates} | dict(self.candidate_texts)
        object.__setattr__(self, "metric", metrics.metric_named(self.metric).name)
        object.__setattr__(self, "candidate_texts", texts)
        object.__setattr__(self, "source", self.source or content_hash(sorted(e.digest for e in self.train)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of settings and examples; the order of the examples does not count."""
        labels = [(label, self.candidate_texts[label]) for label in self.candidates]
        data = [sorted(e.digest for e in split) for split in (self.train, self.validation, self.test)]
        settings = {} if self.image_size is None else {"image_size": self.image_size}
        added = settings | self.decoding.changes()  # not hashed where unused: as before there were any
        said = [self.name, self.modality, self.kind, self.metric, labels, self.prompt, data]
        return content_hash([*said, *([added] if added else [])])

    def split(self, name: str) -> tuple[Example, ...]:
        """The examples of "train", "validation" (or "val", "valid", "dev") or "test".

        Raises:
            TaskError: no such name, or the task has no example there (the attributes are () then).
        """
        if name not in SPLITS:
            fix = f"{did_you_mean(name, SPLITS)}Use one of those."
            raise TaskError("a split must be train, validation or test", repr(name), fix)
        examples = self._splits()[SPLITS[name]]
        if not examples:
            sizes = ", ".join(f"{split} ({len(data)})" for split, data in self._splits().items())
            fix = f"Add {SPLITS[name]}.csv, .jsonl or .parquet to the task folder."
            raise TaskError(f"task {self.name} must have {SPLITS[name]} examples", sizes, fix)
        return examples

    def sample(self, shots: int, seed: int) -> Task:
        """A few-shot version: `shots` distinct training examples a class (in all, for free-form answers).

        A class with fewer gives all it has. Validation has at most as many of a class as were drawn to train,
        from the validation split or, without one, from the training examples left; never one whose texts and
        picture are those of a shot.
        Test is unchanged. The seed and the content of the examples decide alone, not their order.

        Raises:
            TaskError: shots < 1, no training data, a class without an example, or a single class.
        """
        if shots < 1:
            raise TaskError("shots must be at least 1", f"{shots}", "Ask for one example a class or more.")
        drawn = set(map(self._class, self.split("train")))
        missing = [label for label in self._classes if label not in drawn]
        if missing or (self._classes and len(drawn) < 2):
            given = f"{len(drawn)} of {len(self.candidates)} classes: {', '.join(sorted(drawn))}"
            absent = f"for {', '.join(map(repr, missing))}, or remove them from labels" if missing else ""
            fix = f"Add training examples {absent or 'of a second class'}."
            raise TaskError("few-shot training data must hold every class, and two or more", given, fix)
        train = draw(self.train, dict.fromkeys(drawn, shots), self._class, seed)
        short = [label for label, count in Counter(map(self._class, train)).items() if count < shots]
        if short:
            told = f" of {listed(sorted(short))}" if self._classes else ""
            asked = "%s: %d shots were asked for; there are fewer distinct training examples%s"
            log.warning(asked, self.name, shots, told)
        shown = {example.input_digest for example in train}
        rest = [e for e in self.validation or self.train if e.input_digest not in shown]
        validation = draw(rest, Counter(map(self._class, train)), self._class, seed)
        return replace(self, train=train, validation=validation)

    def text(self, example: Example) -> str:
        """The prompt with the example's texts in it; without a prompt its texts, one a line, or ""."""
        if self.prompt is not None:
            return self.prompt.format(text_a=example.text_a or "", text_b=example.text_b or "")
        return "\n".join(text for text in (example.text_a, example.text_b) if text is not None)

    @property
    def draws_boxes(self) -> bool:
        """Whether an answer is a box."""
        return metrics.METRICS[self.metric].gold == "box"

    @property
    def writes(self) -> bool:
        """Whether answers are free text: neither chosen nor boxes."""
        return not self.candidates and not self.draws_boxes

    def answer(self, example: Example) -> str:
        """The gold answer: a candidate's text, a box in integers 0..999, or a free-form text.

        Of answers with weights the most confident, the first of equals.

        Raises:
            TaskError: the example has no answer, or its label is no candidate.
        """
        if self.candidates:
            return self.candidate_texts[self.candidates[self.answer_index(example)]]
        gold = self._gold(example)
        if self.draws_boxes:
            return metrics.format_box(gold)  # type: ignore[arg-type]
        if isinstance(gold, Mapping):
            return chosen(example, ()) or ""
        return gold if isinstance(gold, str) else str(gold[0])

    def answer_weight(self, example: Example) -> float:
        """The confidence in [0, 1] of `answer(example)`: 1 where the example has no weights.

        Raises:
            TaskError: as `answer`.
        """
        weights = confidences(example) if example.label is None else {}
        answer = self.candidates[self.answer_index(example)] if self.candidates else chosen(example, ())
        return weights.get(answer or "", 1.0)

    def answer_index(self, example: Example) -> int:
        """The place of the example's label (or most confident answer) in `candidates`, from 0.

        Raises:
            TaskError: the label is no candidate.
        """
        label = chosen(example, self._index)
        if label not in self._index:
            near = did_you_mean(label or "", self.candidates)
            raise TaskError(
                f"a label must be one of the candidates {listed(self.candidates) or '(there are none)'}",
                "no label" if label is None else f"label {label!r}",
                f"{near}Mend the row, or add the label to labels in the task file.",
            )
        return self._index[label]

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> float:
        """`metric` of predictions: candidate names (not their texts) where there are any, else answers.

        Raises:
            TaskError: nothing to score, lengths that differ, a prediction that is no candidate.
        """
        if not examples or len(predictions) != len(examples):
            given = f"{len(predictions)} predictions for {len(examples)} examples"
            fix = "Predict the split to be scored."
            raise TaskError("scoring needs one prediction an example", given, fix)
        strange = set(predictions) - self._index.keys() if self.candidates else set()
        if strange:
            fix = "Predict labels, not the texts that stand for them."
            raise TaskError(f"a prediction must be one of {listed(self.candidates)}", repr(min(strange)), fix)
        return metrics.METRICS[self.metric].compute(predictions, [self._gold(e) for e in examples])

    def check(self) -> list[TaskError]:
        """Every fault of the data, rows named (from 1); [] for a sound task. Decodes all images.

        `load_task` raises those without which nothing works: missing images and answers, labels that are no
        candidates, a split without texts. This adds images that cannot be decoded, and `doubts`.
        """
        return [*self._load_faults(), *self.image_faults(), *self.doubts()]

    def image_faults(self) -> list[TaskError]:
        """Rows whose image cannot be decoded; decodes all."""
        splits = self._splits().items()
        return [fault for name, rows in splits for fault in row_faults(name, rows, image_faults)]

    def doubts(self) -> list[TaskError]:
        """The faults that training can go on with.

        Single rows without text, test inputs in train or validation, training data of one class, and labels
        that are one but for blanks and case.
        """
        faults = []
        for split, examples in self._splits().items():
            texts = [column for column in self._columns if self._some_have(column, examples)]
            faults += row_faults(split, examples, partial(_empty, texts, self.modality))
        faults += leaks("train", self.train, self.test) + leaks("validation", self.validation, self.test)
        faults += alike({label: self.candidate_texts[label] for label in self._classes})
        classes = {example.label for example in self.train}
        if self._classes and len(classes) == 1:
            given = f"{self.name} with {classes.pop()!r} alone"
            faults.append(TaskError("training data must hold two classes or more", given, "Add examples."))
        return faults

    @property
    def repeated(self) -> int:
        """How many validation examples training shows, too: what fits these by heart then looks best.

        `sample` leaves them out.
        """
        shown = {example.input_digest for example in self.train}
        return sum(example.input_digest in shown for example in self.validation)

    @property
    def contradicted(self) -> int:
        """How many inputs training shows with several labels, of which one at most can be right."""
        labeled = {(example.input_digest, example.label) for example in self.train if self._classes}
        counts = Counter(digest for digest, _ in labeled)
        return sum(count > 1 for count in counts.values())

    def require_inputs(self, examples: Sequence[Example]) -> None:
        """Raise TaskError for examples without an image, where one is read, or all without a text."""
        if self.modality != "text":
            TaskError.collect(row_faults("examples", examples, partial(_empty, ["image"], self.modality)))
            return
        names = self.texts_read
        read = (getattr(example, name) for example in examples for name in names)
        if examples and names and not any((text or "").strip() for text in read):
            must = f"an example of task {self.name} must have {' or '.join(names)}"
            raise TaskError(must, "none", f"Give it: `Example({names[0]}=...)`.")

    @property
    def texts_read(self) -> list[str]:
        """Those of text_a and text_b that the prompt holds; without a prompt, both."""
        if self.prompt is None:
            return ["text_a", "text_b"]
        return sorted({name for _, name, _, _ in Formatter().parse(self.prompt) if name})

    def _load_faults(self) -> list[TaskError]:
        """The faults that `load_task` raises: see `check`."""
        faults = [*self._prompt_faults()]
        for split, examples in self._splits().items():
            needed = [column for column in self._columns if not self._some_have(column, examples)]
            faults += row_faults(split, examples, partial(_empty, needed, self.modality))
            faults += row_faults(split, examples, partial(self._answer_faults, split))
        return faults

    def _prompt_faults(self) -> Iterator[TaskError]:
        """A prompt of texts with none that the examples have: all inputs would be the same."""
        if self.prompt is None or not (self.texts_read or self.modality == "text"):
            return
        if self.train and not any(self._some_have(name, self.train) for name in self.texts_read):
            fix = "Put {text_a} where an example's text belongs."
            yield TaskError("a prompt must hold a text that the examples have", repr(self.prompt), fix)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """The candidates, where they divide the examples; what people answered is too various for that."""
        return () if any(example.weights for example in self.train) else self.candidates

    @cached_property
    def _index(self) -> dict[str | None, int]:
        return {label: index for index, label in enumerate(self.candidates)}

    def _splits(self) -> dict[str, tuple[Example, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def _class(self, example: Example) -> str:
        return self.candidates[self.answer_index(example)] if self._classes else ""

    def _gold(self, example: Example) -> str | tuple[str, ...] | metrics.Box | Mapping[str, float]:
        return gold_of(example, metrics.METRICS[self.metric])

    @property
    def _columns(self) -> tuple[str, ...]:
        """What each row must have beside its answer."""
        first = "text_a" if self.modality == "text" else "image"
        return (first, "text_b") if self.kind == "text-pair-classification" else (first,)

    def _some_have(self, column: str, examples: Sequence[Example]) -> bool:
        """Whether the rows hold such a text at all: then an empty one is odd, but can be read."""
        return column != "image" and any((getattr(example, column) or "").strip() for example in examples)

    def _answer_faults(self, split: str, example: Example) -> Iterator[TaskError]:
        try:
            if split != "test" or self._classes == self.candidates:  # else scored, if never predicted
                self.answer(example)
            self._gold(example)
        except TaskError as fault:
            yield fault


@permitted(TaskError)
def load_task(path: str | Path) -> Task:
    """Read a task folder (or its task.yaml / task.json): Parquet, JSONL, CSV, TSV or image folders.

    What the task file leaves out is inferred: name (the folder's), splits (files called train, validation /
    val / valid / dev, test), labels (those of train, sorted; none for a free-form kind), modality, kind and
    metric. Where it names a `dataset` of `pituning.datasets`, the definition there says it.

    Raises:
        TaskError: files, settings or rows are at fault; the message names every fault found.

    Example:
        >>> task = load_task("sst2")  # doctest: +SKIP
        >>> task.candidates, task.metric, len(task.train)  # doctest: +SKIP
        (('negative', 'positive'), 'accuracy', 5000)
    """
    ConfigError.check_kinds((str | PathLike, path))
    said = read_description(Path(path))
    unnamed = {word: split for word, split in SPLITS.items() if split not in said.splits}
    files = find_splits(said.folder, unnamed) | dict(said.splits)
    if "train" not in files:
        fix = "Add train.csv, train.jsonl or train.parquet, or name the file: `splits: {train: FILE}`."
        near = _named_as("train", said.folder)
        given = f"no train file in {said.folder}"
        if near:
            given += f", but {', '.join(path.name for path in near)}"
            hint = _to_be_read(near[0])
            fix = hint if hint.startswith("Rename") else " Or: ".join(filter(None, (hint, fix)))
        raise TaskError("a task must have a train split", given, fix)
    for split in ("validation", "test"):
        for path in _named_as(split, said.folder) if split not in files else ():
            hint = _to_be_read(path)
            if hint.startswith("Rename") or (hint and files["train"].is_dir()):
                log.warning("%s is not read: %s", path.name, hint)
    if said.dataset is None:
        data = _read_splits(files, said.columns, said.labels or ())
    else:
        said, data = read_dataset(said, files)
    train = data["train"]
    if said.labels is None and (empty := empty_folders(files["train"])):
        log.warning("labels without a training picture are not known: %s", listed(empty))
    texts = infer_labels(train, said.kind) if said.labels is None else said.labels
    modality = said.modality or infer_modality(train)
    kind = said.kind or infer_kind(train, modality, bool(texts))
    task = Task(
        name=said.name,
        modality=modality,
        kind=kind,
        metric=said.metric or infer_metric(train, kind, bool(texts)),
        candidates=tuple(texts),
        candidate_texts=texts,
        prompt=said.prompt,
        image_size=said.image_size,
        decoding=Decoding().changed(said.decoding),
        **data,  # type: ignore[arg-type]
    )
    lacking = misfit(task.kind, modality, train)
    if lacking:
        fix = "Choose another kind, or leave it out; or map the `columns`."
        raise TaskError(f"a task of kind {task.kind} must have {lacking}", f"{task.name} has none", fix)
    TaskError.collect(task._load_faults())
    return task


def _named_as(split: str, folder: Path) -> list[Path]:
    """What lies in a folder under a split's name, of any case and kind."""
    return sorted(path for path in folder.iterdir() if SPLITS.get(path.stem.lower()) == split)


def _to_be_read(path: Path) -> str:
    """What makes a table or a folder of pictures one that is found; "" of what is neither."""
    small = path.name.lower()
    if small != path.name and Path(small).suffix in ("", *TABLES):
        return f"Rename {path.name} to {small}."
    if path.suffix or not path.is_dir() or not pictures_in(path):
        return ""
    return f"Put its pictures into a folder for each label, as {path.name}/cat/1.png."


def _empty(columns: Sequence[str], modality: str, example: Example) -> Iterator[TaskError]:
    """The fault of each of these columns in which an example has nothing."""
    for column in columns:
        value = getattr(example, column)
        if not (value.strip() if isinstance(value, str) else value):
            fix = f"Fill {column} or remove the row."
            given = "an empty file" if value == b"" else "none"
            yield TaskError(f"a row of a task of {modality} must have {column}", given, fix)


def _read_splits(
    files: Mapping[str, Path], columns: Mapping[str, str], labels: Collection[str]
) -> dict[str, tuple[Example, ...]]:
    """The examples of each split, or one error with the faults of all.

    Numbers for labels are read as the names that the training file has for them, unless the task file's
    `labels` are such numbers.
    """
    data, faults = {}, []
    names = names_of_labels(files["train"], columns)
    if any(str(number) in labels for number in range(len(names))):
        names = ()
    for split, file in files.items():
        try:
            data[split] = read_split(file, columns, names)
        except TaskError as fault:
            faults.append(fault)
    TaskError.collect(faults)
    return data
