"""What every configuration checks of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from pituning import PiConfig, TuneConfig
from pituning.errors import ConfigError
from pituning.predict import FisherConfig


@dataclass
class Options:
    """As a configuration has them."""

    at: Literal["start", "expert"] | None = None
    labels: Literal["gold", "sampled"] = "gold"
    name: str | None = None
    k: int = 3
    rate: float | None = 0.1


def test_a_value_that_is_none_of_its_literal_is_named() -> None:
    assert ConfigError.misnamed(Options(None, "sampled", "x")) == []
    wrong = Options("own", "silver")  # type: ignore[arg-type]
    assert [str(fault) for fault in ConfigError.misnamed(wrong)] == [
        "at is one of start, expert; given: 'own'. Name one of them.",
        "labels is one of gold, sampled; given: 'silver'. Name one of them.",
    ]


@pytest.mark.parametrize("k", ["3", 3.0, None, True])
def test_what_is_no_number_is_named(k: object) -> None:
    ConfigError.check_numbers(Options(k=1, rate=1))
    ConfigError.check_numbers(Options(k=np.int64(1), rate=None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"k must be a whole number; given: {re.escape(repr(k))}"):
        ConfigError.check_numbers(Options(k=k))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rate must be a number; given: '0\.1'"):
        ConfigError.check_numbers(Options(rate="0.1"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "name"), [(FisherConfig(), "max_examples"), (PiConfig(), "seed"), (TuneConfig(), "epochs")]
)
def test_every_configuration_checks_its_numbers(config: Any, name: str) -> None:
    object.__setattr__(config, name, "2")  # as without the checks of types that tests run under
    with pytest.raises(ConfigError, match=f"{name} must be a whole number; given: '2'"):
        config.__post_init__()
