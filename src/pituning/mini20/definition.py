"""What each of the twenty generated tasks is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pituning.errors import ConfigError
from pituning.task import Task

PIXELS = 64
"""Side of every picture."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Examples of each split.

    Raises:
        ConfigError: a split without examples.
    """

    train: int = 2000
    validation: int = 300
    test: int = 500

    def __post_init__(self) -> None:
        faults = [
            ConfigError(f"{name} must be at least 1", str(size), f"Raise {name}.")
            for name, size in vars(self).items()
            if size < 1
        ]
        ConfigError.collect(faults)


Maker = Callable[[int, Sizes], Task]
"""Seed and sizes to a task; the same seed gives the same examples on every machine."""
