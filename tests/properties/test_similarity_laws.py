"""Similarity is symmetric, 1 with itself, unchanged when an embedding is scaled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pituning.predict import similarity
from pituning.predict.similarity import Setting, similarities

Embedding = dict[str, Tensor]

shapes = st.lists(st.sampled_from([(1,), (3,), (2, 4), (5, 1)]), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)
settings_ = st.sampled_from(["default", "paper"])


def embedding(shapes: list[tuple[int, ...]], seed: int) -> Embedding:
    """Squares of normal numbers, of different size by component; some are zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"c{index}": torch.randn(shape, generator=generator).square()
        * 10.0 ** float(torch.randint(-4, 3, (), generator=generator))
        * (torch.rand(shape, generator=generator) > 0.1)
        + 1e-3 * (index == 0)
        for index, shape in enumerate(shapes)
    }


def normal(shapes: list[tuple[int, ...]], seed: int) -> Embedding:
    """Standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {f"c{index}": torch.randn(shape, generator=generator) for index, shape in enumerate(shapes)}


@settings(deadline=None, max_examples=50)
@given(shapes, seeds, seeds, settings_)
def test_similarity_is_symmetric(shapes: list[tuple[int, ...]], one: int, two: int, setting: Setting) -> None:
    a, b = embedding(shapes, one), embedding(shapes, two)
    assert similarity(a, b, setting=setting) == pytest.approx(similarity(b, a, setting=setting), rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(shapes, seeds, settings_)
def test_similarity_is_1_with_itself(shapes: list[tuple[int, ...]], seed: int, setting: Setting) -> None:
    a = embedding(shapes, seed)
    assert similarity(a, a, setting=setting) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(shapes, seeds, seeds, st.floats(1e-12, 1e6), st.floats(1e-12, 1e6))
def test_similarity_is_unchanged_when_an_embedding_is_scaled(
    shapes: list[tuple[int, ...]], one: int, two: int, scale: float, other: float
) -> None:
    a, b = embedding(shapes, one), embedding(shapes, two)
    scaled = {name: tensor.double() * scale for name, tensor in a.items()}
    also = {name: tensor.double() * other for name, tensor in b.items()}
    assert similarity(scaled, also) == pytest.approx(similarity(a, b), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(shapes, seeds, seeds, st.floats(0.5, 2))
def test_neither_level_nor_spread_of_a_component_matters(
    shapes: list[tuple[int, ...]], one: int, two: int, power: float
) -> None:
    """On a logarithmic scale, where what is added to keep logarithms finite is small beside the values."""
    a, b = (
        {name: tensor.sin().exp() for name, tensor in normal(shapes, seed).items()} for seed in (one, two)
    )
    other = {name: 3 * tensor**power for name, tensor in a.items()}
    assert similarity(other, b) == pytest.approx(similarity(a, b), abs=1e-3)


@settings(deadline=None, max_examples=50)
@given(shapes, seeds, seeds, settings_)
def test_similarity_lies_between_0_and_1(
    shapes: list[tuple[int, ...]], one: int, two: int, setting: Setting
) -> None:
    assert 0 <= similarity(embedding(shapes, one), embedding(shapes, two), setting=setting) <= 1


@settings(deadline=None, max_examples=20)
@given(shapes, st.lists(seeds, min_size=1, max_size=4), settings_)
def test_similarities_are_those_of_the_pairs(
    shapes: list[tuple[int, ...]], several: list[int], setting: Setting
) -> None:
    first, *others = [embedding(shapes, seed) for seed in several]
    found = similarities(first, others, setting=setting).tolist()
    assert found == pytest.approx([similarity(first, other, setting=setting) for other in others], rel=1e-12)
