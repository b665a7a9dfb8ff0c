"""A training step of a mixture of k experts against one of a single expert, plain PEFT."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import PeftModel, get_peft_model
from speed_model import LORA, batch_of, interleaved, nll, ratio, shake, t5_small
from torch import nn

from pituning.expert import Expert, ExpertCard, attach, saved_tensors
from pituning.foundation import Frozen
from pituning.interpolate import Mixture

SIZES, TOKENS = (2, 4, 8, 16), 64


def mixture_ratios(repeats: int) -> dict[str, float]:
    backbone = Frozen(t5_small())
    single = get_peft_model(backbone.fresh_module(()), LORA).train()
    works = {"single": _step(single, lambda: single)}
    experts = [_expert(backbone, index) for index in range(max(SIZES))]
    for size in SIZES:
        mixture = Mixture(backbone, experts[:size]).train()
        works[f"mixture of {size}"] = _step(mixture, mixture.mixed)
    seconds = interleaved(works, repeats)
    return {name: ratio(seconds, name, "single") for name in works if name != "single"}


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
