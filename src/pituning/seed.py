"""Random numbers that leave the caller's generator as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Draw from torch's generators seeded with `seed`; restore their states afterwards.

    Initialisations use the CPU generator on every device, so that a pool built on a GPU and one built on a
    CPU start from the same point.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def portable_normal(shape: Sequence[int], std: float) -> Tensor:
    """Normal values in float32, the same bits on every processor and device.

    Drawn on the CPU in float64 and rounded: float32 draws differ in the last bit from one instruction set to
    another, and a pool's experts are known to share their initialisation by its bits.
    """
    return torch.empty(shape, dtype=torch.float64, device="cpu").normal_(std=std).float()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The generators that training on `device` draws from: the CPU's, and a GPU's own (dropout)."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Undo what was drawn since `random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
