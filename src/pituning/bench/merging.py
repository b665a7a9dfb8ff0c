"""Ways of merging experts without training, on their differences from the initialisation that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from pituning.backbones import Backbone
from pituning.expert import Expert, attach, load_into, saved_tensors
from pituning.interpolate.compatible import check_mixable
from pituning.interpolate.parameters import with_head_of
from pituning.interpolate.slots import adapter_parameters
from pituning.predict.information import component_name

Combine = Callable[[str, list[Tensor]], Tensor]


@final
class Differences:
    """Experts as differences from their common initialisation: the task vectors of the literature.

    Args:
        target: whose head, where there is one, and whose card the merged expert has.
        experts: of one initialisation, which `init_seed` draws.

    Raises:
        MixtureError: they are not of one initialisation.
    """

    def __init__(
        self, backbone: Backbone, target: Expert, experts: Sequence[Expert], *, init_seed: int
    ) -> None:
        check_mixable([target, *(e for e in experts if e is not target)], "parameters", target.name, backbone)
        self.target = target
        self.model = attach(backbone, target.config, labels=target.card.labels, seed=init_seed)
        self.start = self._read()
        self.rows = [self._difference(expert) for expert in experts]
        load_into(self.model, target)

    def _read(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in adapter_parameters(self.model)}

    def _difference(self, expert: Expert) -> dict[str, Tensor]:
        load_into(self.model, with_head_of(expert, self.target))
        return {name: value - self.start[name] for name, value in self._read().items()}

    def merged(self, combine: Combine, recipe: Mapping[str, object]) -> Expert:
        """The initialisation plus what `combine` makes of the differences, tensor by tensor."""
        self.place(combine)
        card = replace(self.target.card, scores={}, history=[], recipe=dict(recipe))
        return Expert(card, self.target.config, saved_tensors(self.model))

    @torch.no_grad()
    def place(self, combine: Combine) -> None:
        """Put that into `model`."""
        for name, parameter in adapter_parameters(self.model):
            parameter.copy_(self.start[name] + combine(name, [row[name] for row in self.rows]))


def weighted(weights: Sequence[float]) -> Combine:
    """The sum of the differences, each times its weight."""
    return lambda _, rows: sum(
        (weight * row for weight, row in zip(weights, rows, strict=True)), torch.zeros_like(rows[0])
    )


def by_fisher(information: Sequence[Mapping[str, Tensor]]) -> Combine:
    """Their mean, every number weighted by its Fisher information (Matena & Raffel, NeurIPS 2022)."""

    def combine(name: str, rows: list[Tensor]) -> Tensor:
        weights = torch.stack([components[component_name(name)].to(rows[0]) for components in information])
        weights = weights + torch.finfo(weights.dtype).tiny  # equal parts where there is none
        return (torch.stack(rows) * (weights / weights.sum(dim=0))).sum(dim=0)

    return combine
