"""TASK on the command line: a folder, or one of the twenty generated tasks."""

from __future__ import annotations

from pituning.task import Task, load_task

MINI = "mini20/"


def task_named(name: str) -> Task:
    """The task of a folder, or of `mini20/NAME`.

    Raises:
        TaskError: there is neither, or its files are at fault.
    """
    if name.startswith(MINI):
        from pituning.mini20 import mini_task  # lazy: only these tasks need it

        return mini_task(name.removeprefix(MINI))
    return load_task(name)


def members(name: str) -> list[str]:
    """The names of all twenty for `mini20`; any other name alone."""
    if name != MINI.rstrip("/"):
        return [name]
    from pituning.mini20 import NAMES

    return [MINI + each for each in NAMES]
