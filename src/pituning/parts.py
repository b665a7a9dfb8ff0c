"""This process's part of a batch, computed as the one process would that has the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pituning.distributed import own_rows, processes
from pituning.task import Example

Tensors = dict[str, Tensor]


@final
class BatchLosses:
    """`nll` for `fit`: the losses of a batch's examples, or of those that are this process's.

    A part is padded like the whole batch, and dropout takes its rows of the whole batch's masks: so several
    processes learn what one does. Where rows cannot be told apart (fewer examples than processes, or as many
    candidates as examples), every process computes the whole batch.

    Args:
        collate: the tensors of a list of examples.
        loss: one loss an example, of these tensors.
    """

    def __init__(
        self, collate: Callable[[list[Example]], Tensors], loss: Callable[[Tensors], Float[Tensor, " batch"]]
    ) -> None:
        self._collate, self._loss = collate, loss
        self._noise = _WholeNoise()
        self._noiseless = False

    def __call__(self, batch: list[Example]) -> Float[Tensor, " batch"]:
        """Losses of all of `batch`, or of this process's examples in it."""
        self._noise.part = None
        if not 1 < processes() <= len(batch):
            return self._loss(self._collate(batch))
        rows = own_rows(len(batch))
        own = self._collate(batch[rows])
        if self._noiseless:
            return self._loss(own)
        whole = self._collate(batch)
        cut, others = _cut(whole, own, rows, len(batch))
        if not others.isdisjoint({len(batch) // processes(), -(-len(batch) // processes())}):
            return self._loss(whole)
        self._noise.part, self._noise.of, self._noise.others = rows, len(batch), others
        losses = self._loss(cut)
        self._noiseless = not self._noise.drawn
        return losses

    def drawing(self) -> AbstractContextManager[object]:
        """Around the forward and the backward pass, which may draw the same masks again."""
        return nullcontext() if self._noiseless or processes() == 1 else self._noise


def _cut(whole: Tensors, own: Tensors, rows: slice, size: int) -> tuple[Tensors, set[int]]:
    """The rows of `whole` that `own` has, and the numbers of rows of what all examples share."""
    cut, others = {}, set[int]()
    for name, tensor in whole.items():
        few = own.get(name, tensor[rows])
        if len(tensor) == len(few):  # candidates
            cut[name] = tensor
            others.add(len(tensor))
        elif (len(tensor), len(few)) == (size, rows.stop - rows.start):
            cut[name] = tensor[rows]
        else:  # patches of pictures, of some more than of others
            cut[name] = few
    return cut, others


@final
class _WholeNoise(TorchDispatchMode):
    """Draws random tensors of a part as rows of the whole batch's.

    It stands below autograd, where dropout on a CPU is a tensor of Bernoulli draws, and on a GPU one kernel.
    A GPU's fused attention draws its own: its masks are those of no other number of processes.

    Attributes:
        part: the rows; None draws as ever.
        of: rows of the whole batch.
        others: numbers of rows of tensors that are not the batch's.
        drawn: whether anything was drawn.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part: slice | None = None
        self.of = 0
        self.others: Collection[int] = ()
        self.drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.drawn = True
        packet, aten = func.overloadpacket, torch.ops.aten
        if packet in (aten.bernoulli_, aten.uniform_, aten.normal_) and self._times(args[0]):
            whole = self._like_whole(args[0])
            func(whole, *args[1:], **kwargs)
            return args[0].copy_(self._rows(whole))
        if packet in (aten.rand_like, aten.randn_like) and self._times(args[0]):
            return self._rows(func(self._like_whole(args[0]), *args[1:], **kwargs))
        if packet in (aten.rand, aten.randn) and self._times(args[0]):
            size = [self._times(args[0]) * self.of, *args[0][1:]]
            return self._rows(func(size, *args[1:], **kwargs))
        if packet is aten.native_dropout and self._times(args[0]):
            ones, mask = func(torch.ones_like(self._like_whole(args[0])), *args[1:], **kwargs)
            return args[0] * self._rows(ones), self._rows(mask)
        return func(*args, **kwargs)

    def _times(self, like: Any) -> int:
        """Rows an example of a tensor, or of a shape; 0 where its rows are not the batch's."""
        shape = like.shape if isinstance(like, Tensor) else like
        if self.part is None or not shape or not shape[0] or shape[0] in self.others:
            return 0
        times, rest = divmod(shape[0], self.part.stop - self.part.start)
        return 0 if rest else int(times)

    def _like_whole(self, like: Tensor) -> Tensor:
        """Room for the whole batch's draws, laid out as the part's are."""
        order = sorted(range(like.dim()), key=like.stride, reverse=True)
        shape = (self._times(like) * self.of, *like.shape[1:])
        return torch.empty_permuted(shape, order, dtype=like.dtype, device=like.device)

    def _rows(self, whole: Tensor) -> Tensor:
        assert self.part is not None
        times = len(whole) // self.of
        return whole[self.part.start * times : self.part.stop * times].contiguous()
