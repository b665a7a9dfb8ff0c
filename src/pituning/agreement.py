"""Whether the experts of a pool belong together: one backbone, one initialisation, the same shapes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import final

from pituning.card import UNKNOWN
from pituning.expert import Expert, is_head


@final
@dataclass(frozen=True)
class Origin:
    """What of an expert must agree with the others; "" where an adapter from elsewhere does not say it."""

    backbone: str
    method: str
    initialisation: str
    shapes: frozenset[tuple[str, tuple[int, ...]]]

    @classmethod
    def of(cls, expert: Expert) -> Origin:
        """Of an expert, without the head that belongs to its task."""
        card = expert.card
        tensors = {name: t for name, t in expert.tensors.items() if not is_head(name, expert.config)}
        return cls(
            "" if card.backbone.startswith("?") else card.backbone,
            expert.method,
            "" if card.initialisation == UNKNOWN else card.initialisation,
            frozenset((name, tuple(tensor.shape)) for name, tensor in tensors.items()),
        )


def disagreements(origins: Mapping[str, Origin]) -> list[str]:
    """The experts that differ from most.

    In backbone; in initialisation, among those of their method; in shapes, among those of one initialisation.
    """
    backbones = {name: ("", origin.backbone) for name, origin in origins.items()}
    starts = {name: (origin.method, origin.initialisation) for name, origin in origins.items()}
    shapes = {name: (o.initialisation, o.shapes) for name, o in origins.items() if o.initialisation}
    return [
        *(
            f"{name}: was trained on another backbone ({origins[name].backbone[:12]}) than most"
            for name in _unlike_most(backbones)
        ),
        *(
            f"{name}: started from another initialisation ({origins[name].initialisation[:12]}) than most, "
            "with which it cannot be mixed in parameter space"
            for name in _unlike_most(starts)
        ),
        *(f"{name}: its shapes are not those of its initialisation" for name in _unlike_most(shapes)),
    ]


def _unlike_most(values: Mapping[str, tuple[str, Hashable]]) -> list[str]:
    """The names whose value is not the most frequent one of their group; "" is not known, and no value."""
    counts: dict[str, Counter[Hashable]] = defaultdict(Counter)
    for group, value in values.values():
        if value:
            counts[group][value] += 1
    return [
        name
        for name, (group, value) in values.items()
        if value and value != counts[group].most_common(1)[0][0]
    ]
