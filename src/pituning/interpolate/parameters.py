"""Parameter space: the experts' tensors are averaged, so the result is an expert of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import final

import torch
from peft import PeftModel
from torch import Tensor, nn

from pituning.expert import Expert, attach, is_head, load_into
from pituning.foundation import Foundation
from pituning.interpolate.slots import Slot, adapter_parameters, slots_of
from pituning.interpolate.weights import Sharing, group_of, interpolate, precision_of


@final
class ParameterSpace(nn.Module):
    """All experts as one [experts, numbers] parameter, laid out so that each group is one block."""

    def __init__(
        self, backbone: Foundation, experts: Sequence[Expert], target: Expert, sharing: Sharing
    ) -> None:
        super().__init__()
        model = attach(backbone, target.config, labels=target.card.labels, seed=0, overwritten=True)
        order = sorted(slots_of(model), key=lambda slot: group_of(slot.module, sharing))
        blocks = [(g, list(slots)) for g, slots in groupby(order, lambda s: group_of(s.module, sharing))]
        dtype = precision_of([slot.dtype for slot in order])
        rows = []
        for expert in experts:
            load_into(model, with_head_of(expert, target))  # which stays in the model
            tensors = dict(adapter_parameters(model))
            rows.append(torch.cat([tensors[slot.name].detach().flatten().to(dtype) for slot in order]))
        self.model: PeftModel
        self.__dict__["model"] = model  # the mixture's own submodule
        self.slots: list[Slot] = order
        self.fixed: list[str] = []
        self.groups = [group for group, _ in blocks]
        self.block_sizes = [sum(slot.shape.numel() for slot in slots) for _, slots in blocks]
        self.slot_sizes = [slot.shape.numel() for slot in order]
        self.values = nn.Parameter(torch.stack(rows))

    def forward(self, alpha: Tensor) -> list[Tensor]:
        """The mixed tensor of each slot."""
        blocks = interpolate(alpha, self.values, self.block_sizes)
        return list(torch.cat(blocks).split(self.slot_sizes))


def with_head_of(expert: Expert, target: Expert) -> Expert:
    """The expert with the target's head in place of its own."""
    body = {name: t for name, t in expert.tensors.items() if not is_head(name, expert.config)}
    head = {name: t for name, t in target.tensors.items() if is_head(name, target.config)}
    return Expert(expert.card, target.config, body | head)
