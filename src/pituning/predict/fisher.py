"""Exact diagonal Fisher information: F = mean over examples of (∂ log p(y|x) / ∂φ)² (paper, equation 2)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pituning.errors import ConfigError
from pituning.predict.taps import NotByExampleError, check_finite, tapped

B = TypeVar("B")
Nll = Callable[[nn.Module, B], Float[Tensor, " batch"]]
Method = Literal["auto", "hooks", "loop"]

# Batches that the hooks may fail on before "auto" stops trying: one may be odd, two are a habit.
PATIENCE = 2

# Numbers in the per-example gradients of a batch (1 GiB of float32) above which "auto" takes the loop.
ROOM = 2**28


@dataclass(frozen=True)
class FisherRun:
    """Sums over the examples seen so far, and how those of the last batch were computed."""

    sums: dict[str, Tensor]
    examples: int
    method: Method

    @property
    def mean(self) -> dict[str, Tensor]:
        """The Fisher information: one non-negative float32 number a parameter."""
        return {name: total / self.examples for name, total in self.sums.items()}


def diagonal_fisher(
    model: nn.Module,
    batches: Iterable[B],
    nll: Nll[B],
    *,
    method: Method = "auto",
    split: Callable[[B], Sequence[B]] | None = None,
) -> dict[str, Tensor]:
    """Mean squared per-example gradient of every trainable parameter of `model`, in eval mode.

    Args:
        model: any module; its parameters with `requires_grad` are embedded.
        batches: whatever `nll` takes.
        nll: negative log-likelihood of each example of a batch, float [batch]. Each example's must depend on
            that example alone.
        method: "hooks" is one batched forward and backward, with per-example gradients at each layer, whose
            rows must belong to whole examples, in order; "loop" is one backward an example. "auto" tries the
            hooks, which check themselves, and takes the loop for batches where they are not exact.
        split: a batch as batches of one, for the loop; without it the loop runs backward through the whole
            batch's graph once an example.

    The hooks check a batch against autograd, at the price of a second backward, whenever it is laid out
    unlike the batches checked before or is larger, and always where a layer sees several rows an example (how
    many may depend on the data) or where a whole gradient is zero (an untrained LoRA's A).

    Returns:
        Parameter name -> float32 tensor of the parameter's shape.

    Raises:
        ConfigError: for no batches, no trainable parameters, a loss that is not one number an example, or
            method "hooks" where they are not exact.
        TrainingError: if a gradient is not finite.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> diagonal_fisher(layer, [x], lambda m, x: m(x).squeeze(1))["weight"]
        tensor([[0.5000, 2.0000]])
    """
    last: FisherRun | None = None
    for run in accumulate(model, batches, nll, method=method, split=split):
        last = run
    if last is None:
        raise ConfigError("Fisher information needs at least one batch", "none", "Pass some examples.")
    return last.mean


def accumulate(
    model: nn.Module,
    batches: Iterable[B],
    nll: Nll[B],
    *,
    method: Method = "auto",
    split: Callable[[B], Sequence[B]] | None = None,
    fixed_rows: bool = False,
) -> Iterator[FisherRun]:
    """`diagonal_fisher` batch by batch: yields the sums after each, so that a caller can stop early.

    Args:
        fixed_rows: a promise that the number of rows an example has in any layer does not depend on its data
            (a dual encoder that reads the same candidates for every example). Batches laid out alike are then
            checked once.
    """
    ConfigError.check_choice(Method, method=method)
    with evaluating(model):
        pass_ = _Pass(model, trainable(model), nll, split, fixed_rows)
        examples, failures, used = 0, 0, method
        for batch in batches:
            squares = None
            if method == "hooks" or (method == "auto" and failures < PATIENCE):
                try:
                    squares, used = pass_.by_hooks(batch, limited=method == "auto"), "hooks"
                except (NotByExampleError, RuntimeError) as error:
                    if method == "hooks":
                        raise ConfigError(
                            "the hooks need layers whose rows belong to whole examples",
                            str(error).splitlines()[0],
                            "Use method='auto' or 'loop'.",
                        ) from error
                    failures += 1
            if squares is None:
                squares, used = pass_.by_loop(batch), "loop"
            examples += pass_.add(squares)
            yield FisherRun(pass_.sums, examples, used)


def batch_squared_fisher(model: nn.Module, batches: Iterable[B], nll: Nll[B]) -> dict[str, Tensor]:
    """What the official code computes: the squared gradient of each batch's summed loss, by example.

    It equals the Fisher information only for batches of one; the setting `paper` reproduces it.
    """
    parameters = trainable(model)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    examples = 0
    with evaluating(model), torch.enable_grad():
        for batch in batches:
            losses = one_each(nll(model, batch))
            gradients = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.float().square()
            examples += len(losses)
    if not examples:
        raise ConfigError("Fisher information needs at least one batch", "none", "Pass some examples.")
    check_finite(sums)
    return {name: total / examples for name, total in sums.items()}


@final
@dataclass(eq=False)
class _Pass(Generic[B]):
    """One pass over the data: the sums, and which layouts of a batch the hooks were checked on.

    Attributes:
        checked: layout -> the most examples it was checked with. A batch of one cannot show that examples
            share rows, so a larger one is checked again.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    nll: Nll[B]
    split: Callable[[B], Sequence[B]] | None
    fixed_rows: bool
    checked: dict[Hashable, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in self.parameters.items()}
        self.numbers = sum(parameter.numel() for parameter in self.parameters.values())

    def by_hooks(self, batch: B, *, limited: bool) -> tuple[dict[str, Tensor], int]:
        """Squared gradients summed over the batch, and its size: one batched forward and backward.

        Raises:
            NotByExampleError: where they would not be exact, or (if `limited`) would take too much memory.
        """
        with torch.enable_grad(), tapped(self.model, self.parameters) as taps:
            losses = one_each(self.nll(self.model, batch))
            n = len(losses)
            if limited and n * self.numbers > ROOM:
                raise NotByExampleError(f"{n} gradients of {self.numbers} numbers are too large")
            layout = taps.structure(n)
            if n <= self.checked.get(layout, 0):
                squares = taps.squares(losses)
            else:
                squares, all_seen = taps.checked_squares(losses, self.parameters)
                if all_seen and (self.fixed_rows or not taps.stacked):
                    self.checked[layout] = n
        return squares, n

    def by_loop(self, batch: B) -> tuple[dict[str, Tensor], int]:
        """The same by one backward an example: right for every model, and slow."""
        count, squares = 0, dict[str, Tensor]()
        for part in self.split(batch) if self.split else [batch]:
            with torch.enable_grad():
                losses = one_each(self.nll(self.model, part))
            for index, loss in enumerate(losses):
                gradients = torch.autograd.grad(
                    loss,
                    list(self.parameters.values()),
                    retain_graph=index + 1 < len(losses),
                    allow_unused=True,
                )
                for name, gradient in zip(self.parameters, gradients, strict=True):
                    if gradient is not None:
                        square = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square()
                        squares[name] = squares[name].add_(square) if name in squares else square
            count += len(losses)
        return squares, count

    def add(self, result: tuple[Mapping[str, Tensor], int]) -> int:
        """Into the sums; returns the number of examples.

        Raises:
            TrainingError: if a gradient is not finite.
        """
        squares, examples = result
        for name, square in squares.items():
            self.sums[name] += square
        check_finite(self.sums)
        return examples


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient.

    Raises:
        ConfigError: if there is none.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError("something must be trainable", "no parameter requires grad", "Attach an adapter.")
    return parameters


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; every module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def one_each(losses: object) -> Float[Tensor, " batch"]:
    """The losses, if they are one number an example, with a gradient.

    Raises:
        ConfigError: otherwise.
    """
    if not isinstance(losses, Tensor) or losses.dim() != 1 or not len(losses):
        raise ConfigError(
            "nll must return one loss for each example of a batch, and a batch holds at least one",
            f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__,
            "Return the losses before they are averaged.",
        )
    if not losses.requires_grad:
        raise ConfigError(
            "nll must return losses that depend on what is trainable",
            "losses without a gradient",
            "Call the model outside `no_grad`, and do not detach them.",
        )
    return losses
