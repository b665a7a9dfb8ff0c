"""A training step of a mixture of k experts, and the collapsed expert at inference, against other mixing.

Beside one expert of plain PEFT stand: the experts' outputs mixed in every layer, as the official code does
for LoRA (each expert with a projection of its own), the same with one projection for all, and AdapterFusion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from speed_model import LORA, batch_of, interleaved, nll, ratio, shake, t5_small
from torch import Tensor, nn

from pituning.bench.fusion import FusedLayer
from pituning.expert import Expert, ExpertCard, attach, attach_expert, saved_tensors
from pituning.foundation import Frozen
from pituning.interpolate import Mixture

SIZES, TOKENS = (1, 2, 4, 8, 16), 64


class MixedOutputs(nn.Module):
    """softmax(w)_i times the output of each expert's layer, added up.

    Args:
        layers: one an expert.
        shared: the frozen projection runs once for all, not once an expert.
    """

    def __init__(self, layers: Sequence[nn.Module], *, shared: bool) -> None:
        super().__init__()
        self.layers, self.shared = nn.ModuleList(layers), shared
        self.mix = nn.Parameter(torch.ones(len(layers)))

    @property
    def weight(self) -> Tensor:
        return self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        if not self.shared:
            return sum(w * layer(x) for w, layer in zip(self.mix.softmax(0), self.layers, strict=True))
        y = self.layers[0].base_layer(x)
        for w, layer in zip(self.mix.softmax(0), self.layers, strict=True):
            change = layer.lora_B["default"](layer.lora_A["default"](x))
            y = y + w * layer.scaling["default"] * change
        return y


def mixture_ratios(repeats: int) -> dict[str, float]:
    backbone = Frozen(t5_small())
    single = get_peft_model(backbone.fresh_module(()), LORA).train()
    experts = [_expert(backbone, index) for index in range(max(SIZES))]
    works = {"single": _step(single, lambda: single)}
    for size in SIZES:
        mixture = Mixture(backbone, experts[:size]).train()
        works[f"mixture of {size}"] = _step(mixture, mixture.mixed)
    for size in SIZES[1:]:
        works[f"outputs of {size} mixed"] = _live_step(backbone, experts[:size], _outputs)
    works["outputs of 8 mixed, one projection"] = _live_step(backbone, experts[:8], _shared_outputs)
    attention = ("query.", "key.", "value.")
    works["AdapterFusion of 8"] = _live_step(backbone, experts[:8], _fusion, trained=attention)
    seconds = interleaved(works, repeats)
    found = {name: ratio(seconds, name, "single") for name in works if name != "single"}
    for name in ("outputs of 8 mixed", "outputs of 8 mixed, one projection", "AdapterFusion of 8"):
        found[f"{name} / mixture of 8"] = ratio(seconds, name, "mixture of 8")
    return found | inference_ratios(backbone, experts, repeats)


def inference_ratios(backbone: Frozen, experts: Sequence[Expert], repeats: int) -> dict[str, float]:
    """A forward pass, several to a measurement: they take little."""
    collapsed = attach_expert(backbone, Mixture(backbone, experts[:4]).collapse())
    works = {
        "plain": _passes(attach_expert(backbone, experts[0])),
        "collapsed": _passes(collapsed),
        **{f"{size} live": _passes(_live(backbone, experts[:size], _outputs)) for size in (4, 8)},
    }
    seconds = interleaved(works, repeats * 3)
    return {
        "inference: collapsed of 4 / one expert": ratio(seconds, "collapsed", "plain"),
        "inference: outputs of 4 mixed / collapsed": ratio(seconds, "4 live", "collapsed"),
        "inference: outputs of 8 mixed / collapsed": ratio(seconds, "8 live", "collapsed"),
        "inference: a batch of one expert, seconds": median(seconds["plain"]) / PASSES,
    }


PASSES = 4


def _passes(model: nn.Module) -> Callable[[], None]:
    model.eval()
    batch = batch_of(TOKENS, seed=3)

    def run() -> None:
        with torch.no_grad():
            for _ in range(PASSES):
                nll(model, batch)

    return run


Layer = Callable[[Sequence[nn.Module]], nn.Module]


def _outputs(layers: Sequence[nn.Module]) -> nn.Module:
    return MixedOutputs(layers, shared=False)


def _shared_outputs(layers: Sequence[nn.Module]) -> nn.Module:
    return MixedOutputs(layers, shared=True)


def _fusion(layers: Sequence[nn.Module]) -> nn.Module:
    return FusedLayer(layers, layers[0].out_features)


def _live(backbone: Frozen, experts: Sequence[Expert], layer: Layer) -> nn.Module:
    """The model with all experts in every adapted layer."""
    models = [attach_expert(backbone, expert) for expert in experts]
    module = models[0]
    for name, found in list(module.named_modules()):
        if isinstance(found, LoraLinear):
            parent, _, leaf = name.rpartition(".")
            mixed = layer([model.get_submodule(name) for model in models])
            setattr(module.get_submodule(parent), leaf, mixed)
    return module


def _live_step(
    backbone: Frozen, experts: Sequence[Expert], layer: Layer, *, trained: Sequence[str] = ("lora_", "mix")
) -> Callable[[], None]:
    module = _live(backbone, experts, layer).train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    return _step(module, lambda: module)


def _expert(backbone: Frozen, index: int) -> Expert:
    model: PeftModel = attach(backbone, LORA, seed=0)
    shake(model, seed=index)
    card = ExpertCard(
        name=f"e{index}", task=f"t{index}", backbone=backbone.fingerprint, initialisation="seed 0"
    )
    return Expert(card, model.active_peft_config, saved_tensors(model))


def _step(trained: nn.Module, model: Callable[[], nn.Module]) -> Callable[[], None]:
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    batch = batch_of(TOKENS, seed=2)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nll(model(), batch).mean().backward()
        optimiser.step()

    return step
