"""What every configuration checks of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pituning.errors import ConfigError


@dataclass
class Options:
    """As a configuration has them."""

    at: Literal["start", "expert"] | None = None
    labels: Literal["gold", "sampled"] = "gold"
    name: str | None = None


def test_a_value_that_is_none_of_its_literal_is_named() -> None:
    assert ConfigError.misnamed(Options(None, "sampled", "x")) == []
    wrong = Options("own", "silver")  # type: ignore[arg-type]
    assert [str(fault) for fault in ConfigError.misnamed(wrong)] == [
        "at is one of start, expert; given: 'own'. Name one of them.",
        "labels is one of gold, sampled; given: 'silver'. Name one of them.",
    ]
