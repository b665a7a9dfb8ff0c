"""From a mixture to one plain expert: nothing is left to compute at inference."""

from __future__ import annotations

import dataclasses
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pituning.card import UNKNOWN
from pituning.errors import ConfigError, MixtureError
from pituning.expert import Expert, attach, library_versions, load_into, saved_tensors
from pituning.interpolate.delta import low_rank, stacked_config

if TYPE_CHECKING:
    from pituning.interpolate.mixture import Mixture


# What came of the target's own training, or of cutting it: the mixture has others.
RESULTS = ("best_epoch", "validation_loss", "relative_error")


@torch.no_grad()
def collapse(mixture: Mixture, *, name: str, rank: int | None) -> Expert:
    """The expert of a mixture's present tensors; see `Mixture.collapse`."""
    if rank is not None:
        ConfigError.check_kinds((Integral, rank))
        if mixture.space == "parameters" or rank < 1:
            raise MixtureError(
                "a rank of at least 1 is chosen in delta space only",
                f"rank={rank} in {mixture.space} space",
                "Leave it out, and it is the experts' own, or in delta space the sum of theirs.",
            )
    config = mixture.model.active_peft_config
    mixed = {slot.name: slot.value for slot in mixture.tensors.slots}
    trained = {n: p for n, p in mixture.model.named_parameters() if n in mixture.tensors.fixed or _head(n)}
    values: dict[str, Tensor] = {**trained, **mixed}
    own = {name: told for name, told in mixture.target.card.recipe.items() if name not in RESULTS}
    recipe = {**own, "space": mixture.space, "weights": mixture.mean_weights()}
    if rank is not None:
        rank = min(rank, max(slot.shape[1] for slot in mixture.tensors.slots))  # more would be zeros
        values, recipe["relative_error"] = reduced(values, rank)
        ranks = {slot.module: rank for slot in mixture.tensors.slots}
        config = stacked_config(config, ranks, exact=isinstance(config.target_modules, str))
    labels = mixture.target.card.labels
    plain = attach(mixture.backbone, config, labels=labels, seed=0, overwritten=True)
    if mixture.space == "parameters":
        load_into(plain, mixture.target)  # what does not train, such as VeRA's projections
    for parameter_name, value in values.items():
        plain.get_parameter(parameter_name).copy_(value)
    whose = {} if mixture.has_target else {"task": UNKNOWN, "data": UNKNOWN, "source": UNKNOWN}
    card = dataclasses.replace(
        mixture.target.card,
        **whose,
        name=name,
        backbone=mixture.backbone.fingerprint,
        initialisation=mixture.target.card.initialisation if mixture.space == "parameters" else UNKNOWN,
        scores={},
        history=[],
        versions=library_versions(),
        recipe=recipe,
    )
    return Expert(card, config, saved_tensors(plain))


def reduced(values: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], float]:
    """Every pair of LoRA factors cut to `rank`, and the relative Frobenius error of all updates together."""
    lost = whole = 0.0
    cut = dict(values)
    for name_b in [name for name in values if ".lora_B." in name]:
        name_a = name_b.replace(".lora_B.", ".lora_A.")
        cut[name_a], cut[name_b], less, all_of_it = low_rank(values[name_a].cpu(), values[name_b].cpu(), rank)
        lost, whole = lost + less, whole + all_of_it
    return cut, (lost / whole) ** 0.5 if whole else 0.0


def _head(name: str) -> bool:
    return ".modules_to_save." in name
