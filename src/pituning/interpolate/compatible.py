"""Which experts may be mixed, and in which space; every refusal says why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Literal, get_args

import torch

from pituning.card import UNKNOWN
from pituning.errors import MixtureError
from pituning.expert import Expert, is_head
from pituning.foundation import Foundation
from pituning.methods.targets import inside
from pituning.spelling import listed

Space = Literal["parameters", "delta"]


# Starting points of LoRA that leave the frozen weights alone; others (PiSSA, OLoRA, LoftQ …) shift them, and
# the expert's update is then more than its B·A.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")

# Options of LoRA that adapt more than the Linear layers, or adapt them by more than B·A.
BEYOND_DELTA = (
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
)


BUT_IN_DELTA = " (which does not matter in space delta)"


def obstacle(expert: Expert, reference: Expert, space: Space) -> str:
    """Why `expert` cannot be mixed with `reference` in `space`; empty where it can.

    An adapter trained elsewhere does not know its backbone's fingerprint. In delta space it may be mixed all
    the same, and must then fit the backbone's shapes, which is checked when it is loaded.
    """
    unusable = [*dict.fromkeys((*obstacles_alone(reference, space), *obstacles_alone(expert, space)))]
    if unusable:
        return "; ".join(unusable)
    found = []
    backbones = (expert.card.backbone, reference.card.backbone)
    foreign = any(backbone.startswith("?") for backbone in backbones)
    if backbones[0] != backbones[1] and not foreign:
        found.append(f"{expert.name} was trained on another backbone than {reference.name}")
    if expert.method != reference.method:
        found.append(f"{expert.name} is {expert.method}, {reference.name} is {reference.method}")
    if space == "delta" and not found and foreign and not _fit(expert, reference):
        found.append(f"{expert.name} adapts modules of other shapes than {reference.name}")
    if space == "delta" and not found:
        found += trained_beyond(expert, [*trained_whole(reference)])
    if space == "parameters" and not found:
        starts = (expert.card.initialisation, reference.card.initialisation)
        if UNKNOWN in starts and expert is not reference:
            unknown = {e.name: None for e in (expert, reference) if e.card.initialisation == UNKNOWN}
            found.append(f"the initialisation of {' and '.join(unknown)} is not known")
        elif starts[0] != starts[1]:
            found.append(
                f"{expert.name} started from another initialisation (or rank, alpha, targets) "
                f"than {reference.name}"
            )
    told = "; ".join(found)
    if told and space == "parameters" and not obstacle(expert, reference, "delta"):
        told += BUT_IN_DELTA
    return told


def _fit(expert: Expert, reference: Expert) -> bool:
    """Whether the modules that two LoRA experts have in common have the same inputs and outputs."""
    mine, theirs = (dict(_widths(one)) for one in (expert, reference))
    return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())


def _widths(expert: Expert) -> Iterator[tuple[str, torch.Size]]:
    """Each factor's name, and its shape without the rank."""
    for name, tensor in expert.tensors.items():
        if ".lora_A." in name:
            yield name, tensor.shape[1:]
        elif ".lora_B." in name:
            yield name, tensor.shape[:1]


def obstacles_alone(expert: Expert, space: Space) -> list[str]:
    """Why this kind of expert cannot be mixed at all in `space`."""
    name, config = expert.name, expert.config
    if space == "parameters":
        if expert.method == "P_TUNING" or getattr(config, "prefix_projection", False):
            return [f"{name}: PEFT saves what its prompt network computes, not the network that is trained"]
        return []
    if expert.method != "LORA":
        return [f"{name} is {expert.method}, and delta space is defined for LoRA"]
    found = []
    variants = {entry.name for entry in fields(config) if entry.metadata.get("is_lora_variant")}
    options = sorted(option for option in variants.union(BEYOND_DELTA) if getattr(config, option, None))
    if options:
        found.append(f"{name} uses {', '.join(options)}, whose update is not a product B·A")
    if config.lora_bias or config.bias != "none":
        found.append(f"{name} also trains biases, which are not part of B·A")
    if config.init_lora_weights not in PLAIN_STARTS:
        found.append(f"{name} starts from {config.init_lora_weights!r}, which changes the frozen weights")
    if odd := [key for key, tensor in expert.tensors.items() if _is_no_linear(key, tensor)]:
        modules = sorted({re.split(r"\.lora_", key)[0].removeprefix("base_model.model.") for key in odd})
        found.append(f"{name} adapts {listed(modules)}, and delta space is defined for Linear layers")
    if broken := _unpaired(expert):
        found.append(f"{name} has no A and B of one rank for {broken}")
    return found


def _is_no_linear(name: str, tensor: torch.Tensor) -> bool:
    """Whether this is LoRA's factor for an Embedding or a convolution."""
    return ".lora_embedding_" in name or (".lora_A." in name and tensor.dim() > 2)


def _unpaired(expert: Expert) -> str:
    """A module of LoRA's that lacks a factor, or has two that cannot be multiplied; "" where none does."""
    ranks = defaultdict[str, list[torch.Size]](list)
    for name, tensor in expert.tensors.items():
        for factor, dimension in ((".lora_A.", 0), (".lora_B.", 1)):
            if factor in name and name.endswith(".weight") and tensor.dim() < 3:  # no bias, no convolution
                ranks[name.replace(factor, ".")].append(tensor.shape[dimension : dimension + 1])
    return next((module for module, found in ranks.items() if len(found) != 2 or found[0] != found[1]), "")


def check_mixable(
    experts: Sequence[Expert], space: Space, target: str | None, backbone: Foundation
) -> Expert:
    """The expert whose task this is, once all may be mixed.

    Raises:
        MixtureError: naming every obstacle.
    """
    if space not in get_args(Space):
        raise MixtureError(
            f"a space is one of {', '.join(get_args(Space))}", repr(space), "Name one of them."
        )
    names = [expert.name for expert in experts]
    if not experts:
        raise MixtureError("a mixture needs experts", "none", "Give one at least.")
    if len(set(names)) != len(names):
        fix = "Rename the doubles: `expert.renamed(NAME)`."
        raise MixtureError("a mixture needs experts with different names", ", ".join(names), fix)
    if target is not None and target not in names:
        raise MixtureError("the target is one of the experts", repr(target), f"Known: {', '.join(names)}.")
    if target is None and any(map(trained_whole, experts)) and len(experts) > 1:
        raise MixtureError(
            "experts with a head need a target, whose head is used", str(names), "Pass target=NAME."
        )
    chosen = experts[names.index(target)] if target else experts[0]
    foreign = [foreign_to(expert, backbone) for expert in experts]
    found = [obstacle(expert, chosen, space) for expert in experts]
    obstacles = sorted({*found, *foreign} - {""})
    if obstacles:
        other = "delta" if space == "parameters" else "parameters"
        fix = f"Mix them with space={other!r} where that fits, or leave them out."
        raise MixtureError(
            f"experts mixed in {space} space must share "
            + ("backbone, method and initialisation" if space == "parameters" else "backbone and plain LoRA"),
            "; ".join(obstacles),
            "Give the model that they were trained on, or leave them out." if any(foreign) else fix,
        )
    return chosen


def foreign_to(expert: Expert, backbone: Foundation) -> str:
    """Why the expert cannot be used on this backbone, as far as its card tells; empty where it can."""
    known = not expert.card.backbone.startswith("?")
    if known and expert.card.backbone != backbone.fingerprint:
        return f"{expert.name} was not trained on {backbone.name}"
    return ""


def trained_beyond(expert: Expert, heads: Sequence[str]) -> list[str]:
    """Why an expert cannot be mixed in delta space if only these heads belong to a task; empty if it can."""
    whole = sorted(module for module in trained_whole(expert) if not inside(module, heads))
    return [f"{expert.name} also trains {', '.join(whole)}, which is not part of B·A"] if whole else []


def trained_whole(expert: Expert) -> set[str]:
    """The modules that are trained beside the adapter (PEFT's `modules_to_save`), such as a head."""
    names = (name.rpartition(".")[0] for name in expert.tensors if is_head(name, expert.config))
    return {name.removeprefix("base_model.model.") for name in names}
