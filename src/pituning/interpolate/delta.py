"""Delta space: the updates of LoRA experts are averaged, Σ_i w_i s_i B_i A_i, whatever their ranks."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pituning.expert import Expert, attach, attach_expert, is_head
from pituning.foundation import Foundation
from pituning.interpolate.slots import Slot, slots_of
from pituning.interpolate.weights import Sharing, group_of, precision_of, simplex


@final
class DeltaSpace(nn.Module):
    """One LoRA of rank Σ_i r_i: A stacks the experts' A_i; B's columns are s_i B_i, weighted by w_i.

    The stacked A is an ordinary parameter of the model; only B is computed.
    """

    def __init__(
        self, backbone: Foundation, experts: Sequence[Expert], target: Expert, sharing: Sharing
    ) -> None:
        super().__init__()
        factors = [lora_factors(backbone, expert, target) for expert in experts]
        names = sorted(set().union(*factors))
        stacks = {name: _stack([factor.get(name) for factor in factors]) for name in names}
        ranks = {name: stack.a.shape[0] for name, stack in stacks.items()}
        model = attach(backbone, stacked_config(target.config, ranks), labels=target.card.labels, seed=0)
        if {slot.module for slot in slots_of(model)} != set(names):
            config = stacked_config(target.config, ranks, exact=True)
            model = attach(backbone, config, labels=target.card.labels, seed=0)
        _copy_head(backbone, target, model)
        slots = {slot.module: slot for slot in slots_of(model) if ".lora_B." in slot.name}
        self.fixed = [slot.name for slot in slots_of(model) if ".lora_A." in slot.name]
        for slot in slots_of(model):
            if slot.name in self.fixed:
                model.get_parameter(slot.name).data.copy_(stacks[slot.module].a)
        self.__dict__["model"] = model
        self.model: PeftModel
        self.slots: list[Slot] = [slots[name] for name in names]
        self.groups = sorted({group_of(name, sharing) for name in names})
        self.group_index = [self.groups.index(group_of(name, sharing)) for name in names]
        self.columns = nn.ParameterList([nn.Parameter(stacks[name].b) for name in names])
        for index, name in enumerate(names):
            self.register_buffer(f"expert_{index}", stacks[name].expert, persistent=False)

    def forward(self, alpha: Tensor) -> list[Tensor]:
        """The mixed B of each adapted module."""
        weights = simplex(alpha)
        mixed = []
        for index, (b, group) in enumerate(zip(self.columns, self.group_index, strict=True)):
            expert = self.get_buffer(f"expert_{index}")
            mixed.append(b * weights[expert, group])
        return mixed


@dataclass(frozen=True, eq=False)
class _Stack:
    """The factors of one module, and which expert each of the R columns is of."""

    a: Float[Tensor, "rank in"]
    b: Float[Tensor, "out rank"]
    expert: Int[Tensor, " rank"]


def _stack(factors: Sequence[tuple[Tensor, Tensor] | None]) -> _Stack:
    """An expert without this module has an update of zero there, and so no columns."""
    present = [(index, pair) for index, pair in enumerate(factors) if pair is not None]
    return _Stack(
        torch.cat([a for _, (a, _) in present]),
        torch.cat([b for _, (_, b) in present], dim=1),
        torch.cat([torch.full((a.shape[0],), index) for index, (a, _) in present]),
    )


def lora_factors(backbone: Foundation, expert: Expert, target: Expert) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A [r, in], scaling · B [out, r]), with the scaling that PEFT itself applies."""
    model = attach_expert(backbone, without_head(expert, target))
    factors = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        a, b = (factor["default"].weight.detach() for factor in (layer.lora_A, layer.lora_B))
        dtype = precision_of([a.dtype])
        factors[name.removeprefix("base_model.model.")] = a.to(dtype), b.to(dtype) * layer.scaling["default"]
    return factors


def without_head(expert: Expert, target: Expert) -> Expert:
    """The expert's LoRA alone, for a backbone with the target's classes."""
    config = copy.deepcopy(expert.config)
    config.modules_to_save = config.task_type = None
    body = {name: tensor for name, tensor in expert.tensors.items() if not is_head(name, expert.config)}
    return Expert(replace(expert.card, labels=target.card.labels), config, body)


def stacked_config(like: LoraConfig, ranks: Mapping[str, int], *, exact: bool = False) -> LoraConfig:
    """Plain LoRA with these ranks by module and scaling 1 everywhere.

    Args:
        like: whose head, task type, dropout and weight layout are kept.
        ranks: module name -> rank.
        exact: name the modules by an expression, for models where one's name is the end of another's.
    """
    largest = max(ranks.values())
    pattern = {f"^{re.escape(name)}$": rank for name, rank in sorted(ranks.items()) if rank != largest}
    return LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules="|".join(re.escape(name) for name in sorted(ranks)) if exact else sorted(ranks),
        lora_dropout=like.lora_dropout,
        fan_in_fan_out=like.fan_in_fan_out,
        modules_to_save=like.modules_to_save,
        task_type=like.task_type,
        base_model_name_or_path=like.base_model_name_or_path,
        revision=like.revision,
    )


def low_rank(
    a: Float[Tensor, "rank in"], b: Float[Tensor, "out rank"], r: int
) -> tuple[Float[Tensor, "r in"], Float[Tensor, "out r"], float, float]:
    """The best rank-r factors of B·A (Eckart-Young), the squared norm that is lost, and that of the whole.

    Works on the small core of two QR decompositions, never on the [out, in] product.
    """
    q_out, r_out = torch.linalg.qr(b.double())
    q_in, r_in = torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(r_out @ r_in.T)
    kept = min(r, len(s))
    root = s[:kept].sqrt()
    new_a = torch.zeros(r, a.shape[1], dtype=torch.float64)
    new_b = torch.zeros(b.shape[0], r, dtype=torch.float64)
    new_a[:kept] = root[:, None] * (q_in @ v[:kept].T).T
    new_b[:, :kept] = (q_out @ u[:, :kept]) * root
    lost, whole = s[kept:].square().sum(), s.square().sum()
    return new_a.to(a.dtype), new_b.to(b.dtype), float(lost), float(whole)


def _copy_head(backbone: Foundation, target: Expert, model: PeftModel) -> None:
    """Give the stacked model the target's head."""
    source = attach_expert(backbone, target)
    for name, parameter in model.named_parameters():
        if ".modules_to_save." in name:
            parameter.data.copy_(source.get_parameter(name).data)
