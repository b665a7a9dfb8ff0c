"""What does not fit into a GPU's memory is a mistake to be told, with what takes less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pituning.errors import PituningError


@contextmanager
def told_if_full(kind: type[PituningError], must: str, fix: str) -> Iterator[None]:
    """Raise an error of this kind in the place of torch's."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        given = next(iter(str(error).splitlines()), "it is full")
        raise kind(f"{must} must fit into the device's memory", given, fix) from error
