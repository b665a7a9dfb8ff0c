"""The card of an expert: where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pituning.errors import ExpertError
from pituning.safe_files import parse_json

UNKNOWN = "unknown"  # the initialisation of an adapter trained elsewhere


@dataclass(frozen=True, kw_only=True)
class ExpertCard:
    """Where an expert comes from.

    Attributes:
        name: unique in a pool.
        task: the task's name.
        backbone: the frozen model's fingerprint.
        backbone_name: what it was loaded from; for people, and to load it again.
        initialisation: hash of the adapter's tensors and configuration before training. Experts with the same
            one may be mixed in parameter space.
        data: the fingerprint of the task with the shots it was trained on, validation and test included.
        source: the fingerprint of the whole training split they were drawn from.
        modality: the task's.
        labels: the candidates, in the order of a head's outputs.
        scores: what was measured, by name ("validation", "test").
        history: how it was trained; see `FitResult`.
        versions: of the libraries that made it.
        recipe: the configuration that made it.
    """

    name: str
    task: str
    backbone: str
    backbone_name: str = ""
    initialisation: str = UNKNOWN
    data: str = UNKNOWN
    source: str = UNKNOWN
    modality: str = UNKNOWN
    labels: Sequence[str] = ()
    metric: str = UNKNOWN
    scores: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, int | float]] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As JSON.

        Raises:
            ExpertError: if it could not be read again: a number that is not finite, a control character.
        """
        content = (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()
        self.parse(content, f"the card of {self.name!r}")
        return content

    @classmethod
    def parse(cls, content: bytes, where: str) -> ExpertCard:
        """Read a card.

        Raises:
            ExpertError: if it is not JSON, has other fields, or a field of another type.
        """
        try:
            found = parse_json(content)
            hints = _hints()
            wrong = [name for name, value in found.items() if name in hints and not _fits(value, hints[name])]
            if wrong:
                raise TypeError(f"{', '.join(wrong)} of another type")
            return cls(**found)
        except (ValueError, TypeError, AttributeError) as error:
            raise ExpertError(
                "expert.json must hold an expert's card", f"{where}: {error}", "Restore or delete the file."
            ) from error


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(ExpertCard)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON document is of an annotated type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Sequence:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if kind is Mapping:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is Any:
        return True
    return isinstance(value, int | float if hint is float else hint) and not isinstance(value, bool)
