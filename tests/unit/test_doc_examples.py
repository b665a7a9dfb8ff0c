"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pituning

MODULES = [
    module.name
    for module in pkgutil.walk_packages(pituning.__path__, "pituning.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_page_has_a_gap_that_was_to_be_filled() -> None:
    root = Path(__file__).parents[2]
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("benchmarks/*.md")]
    assert len(pages) > 7
    assert [page.name for page in pages if re.search(r"@[A-Z]+@|TODO|FIXME", page.read_text())] == []


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 10
