"""AdapterFusion (Pfeiffer et al., EACL 2021): the experts' outputs are mixed at run time, by attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast, final

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pituning.bench.contest import Contest
from pituning.errors import ExpertError
from pituning.expert import attach_expert, is_head
from pituning.interpolate.parameters import with_head_of
from pituning.methods.bottleneck import BottleneckLayer
from pituning.methods.tuner import width_of

SPREAD = 0.02  # of the attention's initial weights: nearly equal parts


@final
class FusedLayer(nn.Module):
    """One adapted layer with several adapters: what follows sees their outputs, weighed by attention.

    The query is the frozen layer's output; the adapters' are keys and, through a matrix that starts as the
    identity, values.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.base = _base(layers[0])
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=SPREAD)
        self.value = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.value.weight)
        self.to(next(self.layers.parameters()).device)

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, whose type some models ask for."""
        return cast(Tensor, self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., width]`."""
        y: Tensor = self.base(x)
        dtype = self.query.weight.dtype
        outputs = torch.stack([_adapted(layer, x, y) for layer in self.layers]).to(dtype)
        scores = (self.query(y.to(dtype)) * self.key(outputs)).sum(dim=-1, keepdim=True)
        # The weights sum to one, so the mean's value is the mean of the values.
        mixed: Tensor = self.value((scores.softmax(dim=0) * outputs).sum(dim=0))
        return mixed.to(y.dtype)


def _base(layer: nn.Module) -> nn.Module:
    base: nn.Module = cast(BaseTunerLayer, layer).get_base_layer()
    return base


def _adapted(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The adapted layer's output for x, where y is the frozen layer's."""
    if isinstance(layer, BottleneckLayer):
        return layer.adapted("default", y)
    assert isinstance(layer, LoraLinear)
    down, up = layer.lora_A["default"], layer.lora_B["default"]
    change: Tensor = up(down(layer.lora_dropout["default"](x.to(down.weight.dtype))))
    adapted: Tensor = y + (change * layer.scaling["default"]).to(y.dtype)
    return adapted


def _require_plain(layer: nn.Module, method: str) -> None:
    """Raise ExpertError where a layer does more than `_adapted` knows of."""
    variant = isinstance(layer, LoraLinear) and (layer.lora_variant or any(layer.lora_bias.values()))
    if variant or not isinstance(layer, (BottleneckLayer, LoraLinear)):
        raise _unmixable(f"{method}: {type(layer).__name__}{' with a variant of LoRA' if variant else ''}")


def _unmixable(given: str) -> ExpertError:
    return ExpertError("outputs are mixed of bottleneck adapters or plain LoRA", given, "Leave fusion out.")


def fused(contest: Contest) -> nn.Module:
    """The backbone with the target's own expert and its neighbours in every adapted layer.

    Nothing is trained yet; what will be is the attention, and a head.

    Raises:
        ExpertError: these adapters' outputs cannot be mixed.
    """
    own = contest.prediction.own
    others = [replace(with_head_of(expert, own), card=own.card) for expert in contest.neighbors]
    models = [attach_expert(contest.backbone, expert) for expert in (own, *others)]
    module: nn.Module = models[0]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and is_head(name, own.config))
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            _require_plain(layer, own.method)
            parent, _, leaf = name.rpartition(".")
            layers = [model.get_submodule(name).requires_grad_(False) for model in models]
            width = width_of(_base(layer), "a fusion")
            setattr(module.get_submodule(parent), leaf, FusedLayer(layers, width))
    if not any(isinstance(layer, FusedLayer) for layer in module.modules()):
        raise _unmixable(f"{own.method} adapts no layer")
    return module
