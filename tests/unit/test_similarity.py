"""Similarity of two embeddings, and the official notebook's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pituning.errors import ConfigError
from pituning.predict import similarity
from pituning.predict.similarity import similarities

OFFICIAL = Path(__file__).parents[3] / "shared" / "ofa" / "metrics-parity"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official notebook's numbers are not part of the repository"
)


def official() -> list[dict[str, Tensor]]:
    tensors = load_file(OFFICIAL / "task_embeddings.safetensors")
    tasks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        task, _, component = name.partition(".")
        tasks.setdefault(task, {})[component] = tensor
    return [tasks[task] for task in sorted(tasks)]


@needs_official
def test_paper_similarity_is_the_official_one() -> None:
    tasks = official()[:4]
    expected = json.loads((OFFICIAL / "metrics.json").read_text())["similarity_4_tasks_rounded4"]
    found = [[round(similarity(a, b, setting="paper"), 4) for b in tasks] for a in tasks]
    assert found == expected


@needs_official
def test_paper_similarity_of_a_pair_does_not_depend_on_other_tasks() -> None:
    """The notebook drops an all-zero component from a whole row of pairs; we from its own pairs only."""
    tasks = official()
    expected = json.loads((OFFICIAL / "metrics.json").read_text())["similarity_6_tasks_rounded4"]
    found = [[round(similarity(a, b, setting="paper"), 4) for b in tasks] for a in tasks]
    same = {
        (row, column)
        for row in range(6)
        for column in range(6)
        if found[row][column] == expected[row][column]
    }
    with_zeros = {(row, 5) for row in range(5)} | {(5, row) for row in range(6)}
    assert with_zeros <= same
    alone = json.loads((OFFICIAL / "metrics.json").read_text())["similarity_4_tasks_rounded4"]
    assert [row[:4] for row in found[:4]] == alone
    assert [row[:4] for row in expected[:4]] != alone


def test_a_component_of_rounding_says_nothing() -> None:
    a = {"w": torch.tensor([1.0, 4.0]), "noise": torch.tensor([0.0, 3e-14])}
    b = {"w": torch.tensor([4.0, 1.0]), "noise": torch.tensor([3e-14, 0.0])}
    only = similarity({"w": a["w"]}, {"w": b["w"]})
    assert similarity(a, b) == pytest.approx(only, rel=1e-6)
    assert similarity(a, b, setting="paper") < only  # the official code compares the rounding too


def test_embeddings_that_share_nothing_raise() -> None:
    zero = {"w": torch.zeros(2)}
    with pytest.raises(ConfigError, match="must share a component"):
        similarity(zero, {"w": torch.ones(2)})


@pytest.mark.parametrize("value", [-1.0, torch.nan, torch.inf])
def test_values_that_are_no_fisher_information_raise(value: float) -> None:
    good, bad = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, value])}
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ConfigError, match="finite and not negative"):
            similarity(*pair)


def test_other_components_raise() -> None:
    with pytest.raises(ConfigError, match="component by component"):
        similarity({"w": torch.ones(2)}, {"w": torch.ones(3)})
    with pytest.raises(ConfigError, match="they differ in v, w"):
        similarity({"w": torch.ones(2)}, {"v": torch.ones(2)})


def test_similarity_with_no_others_is_empty() -> None:
    assert similarities({"w": torch.ones(2)}, []).tolist() == []


def test_embeddings_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="must have components"):
        similarity({}, {})
