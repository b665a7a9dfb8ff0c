"""Per-example gradients from one batched backward pass, by a tap on every module that owns parameters.

Letters: n examples; r = n·k rows along the first dimension of a module's output, k of them for each example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pituning.errors import TrainingError
from pituning.foundation import is_coarse

CONTAINERS = (nn.ParameterDict, nn.ParameterList, nn.ModuleDict, nn.ModuleList)

# How many powers of two tell examples apart in one pass: 2^-16 … 2^15 stays clear of float32's ends.
CODES = 32


# Where nothing mixes examples, two backward passes differ by so little. In 16 bits, attention on a GPU adds
# up in another order each time; what mixes examples shows by the codes, many times over.
NOISE, NOISE_OF_16_BITS = 1e-6, 1e-2


class NotByExampleError(Exception):
    """A module or a loss whose gradients cannot be taken example by example here; the loop can."""


@final
@dataclass(eq=False)
class Taps:
    """Per-example gradients, collected while backward passes run through the tapped modules.

    Attributes:
        anchor: an input of every tap. Asking for its gradient makes autograd visit the taps and nothing that
            only the parameters' own gradients need.
        calls: what was called in the forward pass: (module number, rows, which inputs are batched).
        uses: parameter name -> how often it was used there; `awaited` are those not yet met again backward.
        noise: by how much a gradient may differ from pass to pass, of the largest.
        last_pass: whether the graph is used up, and gradients are squared as soon as they are whole.
        stacked: whether a call with a gradient had more than one row an example.
    """

    anchor: Tensor
    noise: float = NOISE
    calls: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    awaited: Counter[str] = field(default_factory=Counter)
    examples: int = 0
    found: dict[str, Tensor] = field(default_factory=dict)
    squared: dict[str, Tensor] = field(default_factory=dict)
    last_pass: bool = False
    failed: str = ""
    stacked: bool = False
    replaying: bool = False

    def structure(self, examples: int) -> Hashable:
        """What the layout of examples in rows depends on; batches alike in this are laid out alike."""
        return tuple((module, rows / examples, batched) for module, rows, batched in self.calls)

    def squares(self, losses: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Parameter name -> Σ_i (∂ loss_i / ∂ parameter)², float32 or better. Uses the graph up.

        Raises:
            NotByExampleError: if a module's rows cannot be told apart by example.
        """
        self.last_pass, self.awaited = True, self.uses.copy()
        rest, _ = self._backward(losses, torch.ones_like(losses), {}, retain=False)
        return self.squared | {name: gradient.square().sum(dim=0) for name, gradient in rest.items()}

    def checked_squares(
        self, losses: Float[Tensor, " n"], parameters: Mapping[str, nn.Parameter]
    ) -> tuple[dict[str, Tensor], bool]:
        """`squares`, and whether every parameter in the graph was seen to have one that is not zero.

        Two things are checked against autograd. Nothing is missing: the examples' gradients, weighted, add
        up to the gradient of the weighted loss. Nothing is mixed: weighting example i's loss by w_i scales
        its own gradient by w_i and no other's. The weights are powers of two, which scale floating point
        exactly, so the second holds bit for bit where it holds at all, in bfloat16 too.

        Raises:
            NotByExampleError: if either fails.
            TrainingError: if a gradient is not finite.
        """
        n, place = len(losses), 1
        unequal = losses.new_tensor([2.0 ** (row % 3 - 1) for row in range(n)])
        scaled, truth = self._backward(losses, unequal, parameters, retain=n > 1)
        check_finite(truth)
        _check_complete(scaled, truth)
        gradients = {name: _divided(gradient, unequal) for name, gradient in scaled.items()}
        while place < n:
            # Times the weights of the first pass, so that the two passes differ by another factor each.
            codes = unequal * unequal.new_tensor([2.0 ** (r // place % CODES - CODES // 2) for r in range(n)])
            place *= CODES
            again, _ = self._backward(losses, codes, {}, retain=place < n)
            _check_separate(gradients, {name: _divided(g, codes) for name, g in again.items()}, self.noise)
        squares = {name: gradient.square().sum(dim=0) for name, gradient in gradients.items()}
        return squares, all(bool(gradient.any()) for gradient in truth.values())

    def add(self, name: str, gradients: Tensor) -> None:
        """A parameter used twice gets both contributions before anything is squared."""
        gradients = gradients.float() if gradients.dtype in (torch.float16, torch.bfloat16) else gradients
        known = self.found.pop(name, None)
        gradients = gradients if known is None else known + gradients
        self.awaited[name] -= 1
        if self.last_pass and not self.awaited[name]:
            self.squared[name] = gradients.square().sum(dim=0)
        else:
            self.found[name] = gradients

    def _backward(
        self, losses: Tensor, weights: Tensor, parameters: Mapping[str, nn.Parameter], *, retain: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Per-example gradients of Σ_i w_i loss_i, and autograd's own of those `parameters` in its graph."""
        self.examples, self.found = len(losses), {}
        _, *truth = torch.autograd.grad(
            losses,
            [self.anchor, *parameters.values()],
            grad_outputs=weights,
            retain_graph=retain,
            allow_unused=True,
        )
        if self.failed:
            raise NotByExampleError(self.failed)
        return self.found, {n: g for n, g in zip(parameters, truth, strict=True) if g is not None}


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise TrainingError if a gradient, or a sum of squared ones, is not finite."""
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.sum()))]
    if broken:
        raise TrainingError(
            "gradients must be finite", f"not so in {', '.join(broken[:3])}", "Check the expert and the data."
        )


def _divided(gradients: Tensor, weights: Tensor) -> Tensor:
    return gradients / weights.to(gradients.dtype).view(-1, *[1] * (gradients.dim() - 1))


def _check_complete(scaled: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> None:
    sizes = [own.flatten(1).norm(dim=1).sum() for own in scaled.values()]
    # A gradient that is zero but for rounding (of a bias of the keys, to which softmax is blind) has no
    # digits to compare.
    noise = 1e-6 * max(map(float, sizes), default=0.0)
    for name, total in truth.items():
        own = scaled.get(name)
        if own is None:
            if bool(total.any()):
                raise NotByExampleError(f"{name} is used outside its module's forward")
            continue
        # The examples may cancel in the sum, so the error is relative to their norms, not to the sum's.
        size = own.flatten(1).norm(dim=1).sum()
        error = (own.sum(dim=0) - total).norm()
        if not float(error) <= max(1e-4, 4 * torch.finfo(total.dtype).eps) * float(size) + noise:
            raise NotByExampleError(f"the examples' gradients of {name} do not add up to the batch's")


def _check_separate(gradients: Mapping[str, Tensor], again: Mapping[str, Tensor], noise: float) -> None:
    for name, gradient in gradients.items():
        size = gradient.flatten(1).norm(dim=1).max()
        error = (again[name] - gradient).flatten(1).norm(dim=1).max()
        if not bool(error <= noise * size):
            raise NotByExampleError(f"examples of a batch share rows, or depend on each other, in {name}")


@contextmanager
def tapped(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[Taps]:
    """Watch every module whose forward uses one of `parameters`."""
    device = next(iter(parameters.values())).device
    coarse = any(map(is_coarse, model.parameters()))
    anchor = torch.zeros((), device=device, requires_grad=True)
    taps = Taps(anchor=anchor, noise=NOISE_OF_16_BITS if coarse else NOISE)
    handles = [
        module.register_forward_hook(_hook(taps, number, names), with_kwargs=True)
        for number, (module, names) in enumerate(owners(model, parameters).items())
    ]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def owners(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Module, dict[str, str]]:
    """Module that uses parameters -> {its own name of a parameter: the model's name}.

    A tied parameter has several owners. Containers such as ParameterDict are never called, so their parent is
    the owner.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[nn.Module, dict[str, str]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) not in names:
                continue
            owner, place = module, path
            while isinstance(owner, CONTAINERS) and place:
                place, _, part = place.rpartition(".")
                owner, leaf = model.get_submodule(place), f"{part}.{leaf}"
            found.setdefault(owner, {})[leaf] = names[id(parameter)]
    return found


@final
class _Tap(torch.autograd.Function):
    """The identity of several tensors; its backward hands their gradients to a callback."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, callback: Callable[[tuple[Tensor, ...]], None], *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.callback = callback
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.callback(gradients)
        return None, None, *gradients


@final
@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module: its inputs, and which leaves of its output carry gradients."""

    module: nn.Module
    names: dict[str, str]
    inputs: list[Any]
    spec: TreeSpec
    tapped: list[int]
    batched: tuple[int, ...]

    def is_linear(self) -> bool:
        """Whether the closed form holds: y = x Wᵀ + b, with parameters of its own."""
        return type(self.module).forward is nn.Linear.forward and self.names.keys() <= {"weight", "bias"}


def _hook(taps: Taps, number: int, names: dict[str, str]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if taps.replaying:
            return output
        leaves, shape = tree_flatten(output)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not places:  # nothing flows back here, or it does where the check will find it missing
            taps.calls.append((number, 0, ()))
            return output
        rows = leaves[places[0]].shape[:1]
        inputs, spec = tree_flatten((args, kwargs))
        inputs = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
        batched = tuple(
            i for i, value in enumerate(inputs) if isinstance(value, Tensor) and value.shape[:1] == rows
        )
        call = _Call(module, names, inputs, spec, places, batched)
        taps.calls.append((number, sum(rows), batched))
        taps.uses.update(names.values())

        def backward(gradients: tuple[Tensor, ...]) -> None:
            try:
                (_linear if call.is_linear() else _any_module)(taps, call, gradients)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                taps.failed = f"{type(module).__name__}: {(str(error).splitlines() or ['?'])[0]}"
            if taps.last_pass:  # the graph outlives its backward pass; the activations need not
                call.inputs.clear()

        watched = _Tap.apply(taps.anchor, backward, *[leaves[place] for place in places])  # type: ignore[no-untyped-call]
        for place, leaf in zip(places, watched, strict=True):
            leaves[place] = leaf
        return tree_unflatten(leaves, shape)

    return hook


def _rows(taps: Taps, tensor: Tensor) -> Tensor:
    """[r, ...] -> [n, k, ...].

    Raises:
        ValueError: if the rows are not a whole number an example.
    """
    if tensor.dim() == 0 or tensor.shape[0] % taps.examples:
        raise ValueError(f"{tuple(tensor.shape)} does not hold whole rows for {taps.examples} examples")
    taps.stacked |= tensor.shape[0] > taps.examples
    rows: Tensor = tensor.unflatten(0, (taps.examples, -1))
    return rows


def _linear(taps: Taps, call: _Call, outputs: tuple[Tensor, ...]) -> None:
    """∂L_i/∂W = Σ_t g_it a_itᵀ and ∂L_i/∂b = Σ_t g_it, all examples at once."""
    g = _rows(taps, outputs[0]).flatten(1, -2)
    if "bias" in call.names:
        taps.add(call.names["bias"], g.sum(dim=1, dtype=torch.promote_types(g.dtype, torch.float32)))
    if "weight" in call.names:
        a = _rows(taps, call.inputs[0]).flatten(1, -2)
        wide = torch.promote_types(g.dtype, torch.float32)
        taps.add(call.names["weight"], torch.bmm(g.transpose(1, 2).to(wide), a.to(wide)))


def _any_module(taps: Taps, call: _Call, outputs: tuple[Tensor, ...]) -> None:
    """Per-example gradients of one module, by vmap over the examples of its vector-Jacobian product."""
    own = {leaf: call.module.get_parameter(leaf).detach() for leaf in call.names}
    if not call.batched:
        raise ValueError("no input has the output's first dimension")
    inputs = [_rows(taps, call.inputs[place]) for place in call.batched]

    def product(outputs: tuple[Tensor, ...], *rows: Tensor) -> dict[str, Tensor]:
        def forward(own: dict[str, Tensor]) -> tuple[Tensor, ...]:
            values = list(call.inputs)
            for place, row in zip(call.batched, rows, strict=True):
                values[place] = row
            args, kwargs = tree_unflatten(values, call.spec)
            output = torch.func.functional_call(call.module, own, args, kwargs, tie_weights=False)
            leaves = tree_flatten(output)[0]
            return tuple(leaves[place] for place in call.tapped)

        pullback = torch.func.vjp(forward, own)[1]
        found: dict[str, Tensor] = pullback(outputs)[0]
        return found

    taps.replaying = True
    try:
        found = torch.func.vmap(product)(tuple(_rows(taps, g) for g in outputs), *inputs)
    finally:
        taps.replaying = False
    for leaf, gradient in found.items():
        taps.add(call.names[leaf], gradient)
