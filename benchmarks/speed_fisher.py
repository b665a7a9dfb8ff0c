"""Exact Fisher information against a plain pass, the loop of batches of one, opacus and torch.func."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from speed_model import LORA, batch_of, interleaved, nll, ratio, shake, split, t5_small
from torch import Tensor, nn

from pituning.backbones import load_backbone
from pituning.expert import attach_expert
from pituning.mini20 import mini_task
from pituning.pool import Pool
from pituning.predict.fisher import accumulate, diagonal_fisher
from pituning.weights import MINI20

BATCHES = 16  # of a whole embedding, for the share of the first batch's check

Batch = dict[str, Tensor]
Squares = dict[str, Tensor]


def fisher_ratios(repeats: int) -> dict[str, float | str]:
    ratios: dict[str, float | str] = {}
    for tokens in (64, 16):
        ratios |= {f"{name}, {tokens} tokens": value for name, value in _ratios(tokens, repeats).items()}
    ratios["batch squared: error after the best scaling, rte on ofa-mini"] = shortcut_error()
    return ratios


def shortcut_error(batches: int = BATCHES, size: int = 16) -> float:
    """How far the sum of the squared gradients of batches, at the cost of a plain pass, is from exact.

    The relative error that is left once its scale is the best one: 0 is exact, 1 has nothing to do with it.
    """
    backbone, task = load_backbone("ofa-mini"), mini_task("rte")
    model = attach_expert(backbone, Pool(MINI20).get("rte")).eval()
    examples = task.train[: batches * size]
    parts = [
        backbone.collate(examples[start : start + size], task) for start in range(0, len(examples), size)
    ]
    exact = diagonal_fisher(model, parts, backbone.nll)
    squared = {name: torch.zeros_like(square) for name, square in exact.items()}
    trained = {name: p for name, p in model.named_parameters() if name in exact}
    for part in parts:
        gradients = torch.autograd.grad(backbone.nll(model, part).sum(), list(trained.values()))
        for name, gradient in zip(trained, gradients, strict=True):
            squared[name] += gradient.square()
    one, two = (torch.cat([s.flatten() for s in found.values()]).double() for found in (exact, squared))
    scale = one @ two / (two @ two)
    return float((one - scale * two).norm() / one.norm())


def _ratios(tokens: int, repeats: int) -> dict[str, float | str]:
    model = get_peft_model(t5_small(), LORA).eval()
    shake(model, seed=1)
    batch = batch_of(tokens, seed=2)
    steady = accumulate(model, cycle([batch]), nll, split=split)
    first = next(steady)
    if first.method != "hooks":
        raise SystemExit("the hooks were refused: there is nothing to measure")
    expected = {name: total.clone() for name, total in first.sums.items()}
    works: dict[str, Callable[[], object]] = {
        "plain": lambda: _plain(model, batch),
        "fisher": lambda: next(steady),
        "checked": lambda: next(accumulate(model, [batch], nll)),
        "loop": lambda: next(accumulate(model, [batch], nll, method="loop", split=split)),
    }
    missing = {}
    for name, make in {"opacus": _opacus, "torch.func": _torch_func}.items():
        try:
            work = make(model)
            _check_same(work(batch), expected)
            works[name] = lambda work=work: work(batch)
        except Exception as error:  # another library's limits are a result here, not an end
            missing[name] = f"not measured: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    seconds = interleaved(works, repeats)
    whole = [
        (checked + (BATCHES - 1) * fisher) / (BATCHES * plain)
        for checked, fisher, plain in zip(
            seconds["checked"], seconds["fisher"], seconds["plain"], strict=True
        )
    ]
    found: dict[str, float | str] = {
        "plain, seconds": median(seconds["plain"]),
        "fisher": ratio(seconds, "fisher", "plain"),
        f"fisher with the first batch's check, over {BATCHES} batches": median(whole),
        "loop / fisher": ratio(seconds, "loop", "fisher"),
    }
    for name in ("opacus", "torch.func"):
        found[f"{name} / fisher"] = missing.get(name) or ratio(seconds, name, "fisher")
    return found


def _plain(model: nn.Module, batch: Batch) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(nll(model, batch).sum(), parameters)


def _opacus(model: nn.Module) -> Callable[[Batch], Squares]:
    """Opacus samples gradients in train mode only; there is no dropout."""
    from opacus import GradSampleModule

    sampler = GradSampleModule(copy.deepcopy(model).train(), loss_reduction="sum", strict=False)

    def squares(batch: Batch) -> Squares:
        sampler.zero_grad(set_to_none=True)
        nll(sampler, batch).sum().backward()
        return {
            name.removeprefix("_module."): parameter.grad_sample.square().sum(dim=0)
            for name, parameter in sampler.named_parameters()
            if parameter.requires_grad
        }

    return squares


def _torch_func(model: nn.Module) -> Callable[[Batch], Squares]:
    """vmap over grad; explicit 4-D masks, as transformers makes its own with data-dependent control flow."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(parameters: Squares, row: Batch) -> Tensor:
        example = {name: tensor.unsqueeze(0) for name, tensor in row.items()}
        return nll(_Called(model, parameters), example)[0]

    def squares(batch: Batch) -> Squares:
        rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
        return {name: gradients.square().sum(dim=0) for name, gradients in rows.items()}

    return squares


class _Called:
    """A model with other parameters, called with masks of its own."""

    def __init__(self, model: nn.Module, parameters: Squares) -> None:
        self.model, self.parameters = model, parameters

    def __call__(self, **inputs: Tensor) -> Any:
        source, target = inputs["input_ids"].shape[1], inputs["decoder_input_ids"].shape[1]
        masks = {
            "attention_mask": torch.zeros(1, 1, 1, source),
            "decoder_attention_mask": torch.full((target, target), -torch.inf).triu(1)[None, None],
        }
        return torch.func.functional_call(self.model, self.parameters, (), inputs | masks)


def _check_same(found: Squares, expected: Squares) -> None:
    for name, square in expected.items():
        if float((found[name] - square).norm()) > 1e-3 * float(square.norm()):
            raise ValueError(f"other gradients than ours in {name}")
