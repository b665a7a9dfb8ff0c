"""Pictures are decoded when they are used, late; a broken one is better found at once."""

from __future__ import annotations

from collections.abc import Sequence

from pituning.errors import TaskError
from pituning.faults import image_faults, row_faults
from pituning.task import Example, Task


def require_pictures(task: Task) -> None:
    """Raise TaskError naming every row of the task whose picture cannot be decoded."""
    splits: dict[str, Sequence[Example]] = {
        "train": task.train,
        "validation": task.validation,
        "test": task.test,
    }
    TaskError.collect(
        [fault for name, rows in splits.items() for fault in row_faults(name, rows, image_faults)]
    )
