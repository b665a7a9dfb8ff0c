"""TASK and POOL on the command line: folders, or the twenty generated tasks and their experts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from pituning.errors import PoolError, TaskError
from pituning.pool import Pool
from pituning.task import Task, load_task
from pituning.weights import MINI20

log = logging.getLogger(__name__)

MINI = "mini20/"
CARRIED = "mini20"  # the pool of their experts

MANY = 20  # labels, below which no one wonders
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def task_named(name: str) -> Task:
    """The task of a folder, or of `mini20/NAME`.

    Raises:
        TaskError: there is neither, or its files are at fault.
    """
    if name.startswith(MINI):
        from pituning.mini20 import mini_task  # lazy: only these tasks need it

        return mini_task(name.removeprefix(MINI))
    return load_task(name)


def pool_named(name: str) -> Pool:
    """The pool of a folder, or the carried one for `mini20` where no folder has that name.

    Raises:
        PoolError: there is neither, or it is damaged.
    """
    return Pool(MINI20 if name == CARRIED and not Path(name).exists() else name)


def require_own_pool(name: str) -> None:
    """Raise PoolError for the carried pool, which is read only, and would be hidden by a new one."""
    if name == CARRIED and not Path(name).exists():
        given = f"{name!r}, which is that of the pool that the package carries"
        raise PoolError("only a pool of one's own is written to", given, "Choose another folder.")


def look_over(task: Task) -> None:
    """Find now what is wrong with a task: pictures are decoded when they are used, late.

    What training goes on with, and `check` finds fault with, is logged.

    Raises:
        TaskError: naming every row whose picture cannot be decoded.
    """
    TaskError.collect(task.image_faults())
    for fault in task.doubts():
        log.warning("%s: %s", task.name, fault)
    for note in notes(task):
        log.warning("%s: %s", task.name, note)


def notes(task: Task) -> Iterator[str]:
    """What is no fault of the data, and yet harms: see `Task.repeated` and `Task.contradicted`.

    And labels that seem to be numbers to be estimated, or free answers.
    """
    if task.repeated:
        told = f"{task.repeated} of {len(task.validation)} validation examples are in training, too"
        yield f"{told}: without --shots, which leaves them out, they say nothing of what is new"
    if task.contradicted:
        yield f"training inputs with several labels, of which one at most is right: {task.contradicted}"
    labels = {example.label for example in task.train if example.label and task.candidates}
    if _seem_no_classes(labels, len(task.train)):
        told = f"answers are taken as classes: {len(labels)} different labels on {len(task.train)} examples"
        yield f"{told}; numbers are not estimated, and free answers need a `kind` such as text-generation"


def _seem_no_classes(labels: set[str], examples: int) -> bool:
    """Whether they are many, and hardly repeated or numbers with fractions."""
    numbers = all(map(NUMBER.fullmatch, labels)) and any("." in label for label in labels)
    return len(labels) > MANY and (numbers or 2 * len(labels) > examples)


def members(name: str) -> list[str]:
    """The names of all twenty for `mini20`; any other name alone."""
    if name != CARRIED:
        return [name]
    from pituning.mini20 import NAMES

    return [MINI + each for each in NAMES]
