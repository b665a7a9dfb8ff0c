"""Several processes that train as one; on its own, a process is the first of one and nothing is sent.

A launcher (`torchrun`, `accelerate launch`) starts them, and `Launched` makes them a group. Who has a group
needs nothing more: `train_expert`, `tune` and `pi_tune` take the default one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar, final
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from pituning.errors import PituningError, TrainingError

T = TypeVar("T")

# A launcher ends the others when one process fails; until then they wait for whatever the first one does.
PATIENCE = timedelta(days=7)

# Groups -> those of the same processes that objects go through.
_TALKING = WeakKeyDictionary[Any, Any]()

# Seconds in which processes that fail of the same cause find it.
TOGETHER = 5.0


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if _grouped() else 1


def is_first() -> bool:
    """Whether this one writes files and talks."""
    return not _grouped() or dist.get_rank() == 0


def own_rows(size: int) -> slice:
    """Which of `size` rows are this process's; each has some where there are enough."""
    rank, many = (dist.get_rank(), dist.get_world_size()) if _grouped() else (0, 1)
    return slice(size * rank // many, size * (rank + 1) // many)


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all; the others do not call it.

    Raises:
        PituningError: the first process's, in all.
    """
    if not _grouped():
        return make()
    if dist.get_rank():
        found, failure = _broadcast(None)
        if failure is not None:
            kind, *words = failure
            raise kind(*words)
        return found  # type: ignore[no-any-return]
    try:
        value = make()
    except PituningError as error:
        _broadcast((None, (type(error), error.must, error.given, error.fix)))
        raise
    except Exception as error:
        given = f"{type(error).__name__}: {error}"
        _broadcast((None, (TrainingError, "the first process must not fail", given, "See what it says.")))
        raise
    _broadcast((value, None))
    return value


def require_same(key: str) -> None:
    """Raise TrainingError in all processes unless all give the same `key`."""
    if not _grouped():
        return
    keys: list[Any] = [None] * dist.get_world_size()
    with _together():
        dist.all_gather_object(keys, key, group=_talking())
    if len(set(keys)) > 1:
        raise TrainingError(
            "processes that train together have the same data, model and options",
            f"{len(set(keys))} different ones",
            "Give all the same, or leave the process group before you train different things.",
        )


def spread(tensors: Iterable[Tensor]) -> None:
    """The first process's values into all processes' tensors."""
    if _grouped():
        with _together(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor's sum over the processes, which all get the same bits."""
    if not _grouped():
        return [*tensors]
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _together():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def sum_gradients(parameters: Sequence[nn.Parameter], *numbers: float) -> list[float]:
    """Put the sum over the processes into each parameter's gradient; returns the sums of `numbers`."""
    if not _grouped():
        return [*numbers]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    there = [float(p.grad is not None) for p in parameters]
    told = torch.tensor([*numbers, *there], device=found[0].device)
    *sums, told = summed([*found, told])
    totals: list[float] = told.tolist()
    for parameter, gradient, some in zip(parameters, sums, totals[len(numbers) :], strict=True):
        parameter.grad = gradient.to(parameter.dtype) if some else None
    return totals[: len(numbers)]


@final
class Launched:
    """The processes that a launcher started, as a group while the context lasts.

    Where each has a GPU of its own, tensors on GPUs go through nccl; everything else goes through gloo.
    """

    def __enter__(self) -> Launched:
        self._first_to_fail: bool | None = None
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        gpus = torch.cuda.device_count()
        backend = "cpu:gloo,cuda:nccl" if here <= gpus else "gloo"
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
        self._store, rank, self._many = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(
            backend, store=self._store, rank=rank, world_size=self._many, timeout=PATIENCE
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group; after a failure, once the others had time to fail of the same."""
        if error is not None:
            self.speaks()
        with suppress(RuntimeError):
            dist.destroy_process_group()

    def speaks(self) -> bool:
        """Whether this process, which has failed, was the first: all fail of one cause, and one tells it."""
        if self._first_to_fail is None:
            self._first_to_fail = False
            with suppress(RuntimeError):  # the store went with the process that held it
                failed = self._store.add("pituning/failed", 1)
                self._first_to_fail = failed == 1
                until = time.monotonic() + TOGETHER
                while failed < self._many and time.monotonic() < until:
                    time.sleep(0.05)
                    failed = self._store.add("pituning/failed", 0)
        return self._first_to_fail


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _talking() -> Any:
    """The group that objects go through: a script's own, or where that has nccl alone, which gives up after
    minutes, one of the same processes on CPUs.
    """
    if "gloo" in dist.get_backend_config():
        return None
    world = dist.group.WORLD
    if world not in _TALKING:
        _TALKING[world] = dist.new_group(backend="gloo", timeout=PATIENCE)
    return _TALKING[world]


def _broadcast(value: Any) -> Any:
    box = [value]
    with _together():
        dist.broadcast_object_list(box, 0, group=_talking())
    return box[0]


@contextmanager
def _together() -> Iterator[None]:
    """Around what all must take part in."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            "processes that train together run to the end together",
            f"another one stopped ({str(error).splitlines()[0]})",
            "Start them again; with --resume they go on from the last checkpoint.",
        ) from error
