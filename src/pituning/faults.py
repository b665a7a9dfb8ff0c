"""Faults in the rows of a split, gathered so that a user mends them in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pituning.errors import TaskError
from pituning.example import Example

_ROWS_NAMED = 5


def faults_by_kind(source: str, faults: Iterable[tuple[int, TaskError]]) -> list[TaskError]:
    """One error for each thing that must hold, naming the first rows of `source` (from 1) that break it.

    Example:
        >>> fault = TaskError("a label must be given", "no label", "Add it.")
        >>> faults_by_kind("train.csv", [(1, fault), (4, fault)])[0].given
        'train.csv row 1: no label; row 4: no label'
    """
    kinds: dict[str, list[tuple[int, TaskError]]] = {}
    for row, fault in faults:
        kinds.setdefault(fault.must, []).append((row, fault))
    errors = []
    for must, found in kinds.items():
        named = [f"row {row}: {fault.given}" for row, fault in found[:_ROWS_NAMED]]
        more = [f"and {len(found) - _ROWS_NAMED} more"] if len(found) > _ROWS_NAMED else []
        errors.append(TaskError(must, f"{source} {'; '.join(named + more)}", found[0][1].fix))
    return errors


def row_faults(
    split: str, examples: Sequence[Example], faults_of: Callable[[Example], Iterator[TaskError]]
) -> list[TaskError]:
    """What `faults_of` finds in the examples of `split`, by kind; with the example's place, if it has one."""
    rows = enumerate(examples, 1)
    found = ((row, _placed(fault, example)) for row, example in rows for fault in faults_of(example))
    return faults_by_kind(split, found)


def _placed(fault: TaskError, example: Example) -> TaskError:
    given = f"{example.place}: {fault.given}" if example.place else fault.given
    return TaskError(fault.must, given, fault.fix)


def image_faults(example: Example) -> Iterator[TaskError]:
    """The fault of an image that cannot be decoded."""
    if example.image is not None:
        try:
            example.open_image()
        except TaskError as fault:
            yield fault


def leaks(name: str, seen: Sequence[Example], test: Sequence[Example]) -> list[TaskError]:
    """The test examples whose texts and image the split of this name shows too, whatever the answer there."""
    inputs = {example.input_digest for example in seen}
    fault = TaskError("test inputs must be in no other split", f"is in {name} too", "Remove them there.")
    rows = enumerate(test, 1)
    return faults_by_kind("test", ((row, fault) for row, example in rows if example.input_digest in inputs))
