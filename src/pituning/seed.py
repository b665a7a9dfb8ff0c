"""Random numbers that leave the caller's generator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Draw from torch's CPU generator seeded with `seed`; restore its state afterwards.

    Initialisations use the CPU generator on every device, so that a pool built on a GPU and one built on a
    CPU start from the same point.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
