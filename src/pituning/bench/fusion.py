"""AdapterFusion (Pfeiffer et al., EACL 2021): the experts' outputs are mixed at run time, by attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pituning.bench.contest import Contest
from pituning.errors import ExpertError
from pituning.expert import attach_expert
from pituning.interpolate.parameters import with_head_of
from pituning.methods.bottleneck import BottleneckLayer
from pituning.seed import isolated_seed

RATE = 1e-3
SPREAD = 0.02  # of the attention's initial weights: nearly equal parts


@final
class FusedLayer(nn.Module):
    """One adapted layer with several adapters: what follows sees their outputs, weighed by attention.

    The query is the frozen layer's output, the keys are the adapters'. The paper's value matrix, which starts
    as the identity, is left out.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.base = _base(layers[0])
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=SPREAD)

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, whose type some models ask for."""
        return cast(Tensor, self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., width]`."""
        y: Tensor = self.base(x)
        outputs = torch.stack([_adapted(layer, x, y) for layer in self.layers])
        scores = (self.query(y) * self.key(outputs)).sum(dim=-1, keepdim=True) / y.shape[-1] ** 0.5
        mixed: Tensor = (scores.softmax(dim=0) * outputs).sum(dim=0)
        return mixed


def _base(layer: nn.Module) -> nn.Module:
    base: nn.Module = cast(BaseTunerLayer, layer).get_base_layer()
    return base


def _adapted(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if isinstance(layer, BottleneckLayer):
        return layer._adapt("default", y)
    assert isinstance(layer, LoraLinear)
    change: Tensor = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    return y + change


def fused(contest: Contest) -> nn.Module:
    """The backbone with the target's own expert and the neighbours in every adapted layer, untrained."""
    own = contest.pi.own
    experts = [own, *(with_head_of(expert, own) for expert in contest.neighbors)]
    models = [attach_expert(contest.backbone, expert) for expert in experts]
    module: nn.Module = models[0].requires_grad_(False)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        if not isinstance(layer, (BottleneckLayer, LoraLinear)):
            given = f"{own.method}: {type(layer).__name__}"
            raise ExpertError("outputs are mixed of bottleneck adapters or LoRA", given, "Leave fusion out.")
        width = int(cast(Tensor, _base(layer).weight).shape[0])
        parent, _, leaf = name.rpartition(".")
        layers = [model.get_submodule(name).requires_grad_(False) for model in models]
        setattr(module.get_submodule(parent), leaf, FusedLayer(layers, width))
    return module


def fusion(contest: Contest) -> nn.Module:
    """Only the attention is trained."""
    with isolated_seed(contest.config.seed):
        module = fused(contest)
    contest.fit(module, RATE, contest.config.tune)
    return module.eval()
