"""Fisher >= 0, does not depend on how the data is batched, equals the batch-of-one loop to 1e-5 relative."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pituning.predict import diagonal_fisher


class Tower(nn.Module):
    """Embedding, norm and linear layers over [batch, tokens]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed, self.norm = nn.Embedding(9, 4), nn.LayerNorm(4)
            self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 3)
            self.unused = nn.Parameter(torch.randn(2))

    def forward(self, ids: Tensor) -> Tensor:
        return self.outer(self.inner(self.norm(self.embed(ids))).tanh()).sum(dim=1)


def nll(model: nn.Module, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(ids), ids[:, 0] % 3, reduction="none")


examples = st.integers(1, 7)
cuts = st.sets(st.integers(1, 6))
seeds = st.integers(0, 2**16)


def data(seed: int, n: int) -> Tensor:
    return torch.randint(0, 9, (n, 3), generator=torch.Generator().manual_seed(seed))


def batched(ids: Tensor, at: set[int]) -> list[Tensor]:
    edges = [0, *sorted(cut for cut in at if cut < len(ids)), len(ids)]
    return [ids[start:end] for start, end in pairwise(edges)]


@settings(deadline=None, max_examples=25)
@given(seeds, examples, cuts)
def test_fisher_equals_the_batch_of_one_loop(seed: int, n: int, at: set[int]) -> None:
    model, ids = Tower(seed), data(seed, n)
    found = diagonal_fisher(model, batched(ids, at), nll, method="hooks")
    loop = diagonal_fisher(model, list(ids.split(1)), nll, method="loop")
    for name, tensor in loop.items():
        assert float((found[name] - tensor).norm()) <= 1e-5 * float(tensor.norm()), name


@settings(deadline=None, max_examples=25)
@given(seeds, examples, cuts, cuts)
def test_fisher_does_not_depend_on_how_the_data_is_batched(
    seed: int, n: int, at: set[int], other: set[int]
) -> None:
    model, ids = Tower(seed), data(seed, n)
    one, two = (diagonal_fisher(model, batched(ids, cuts), nll, method="hooks") for cuts in (at, other))
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6 * float(one[name].max())), name


@settings(deadline=None, max_examples=25)
@given(seeds, examples)
def test_fisher_is_not_negative(seed: int, n: int) -> None:
    found = diagonal_fisher(Tower(seed), [data(seed, n)], nll)
    assert all(bool((tensor >= 0).all()) for tensor in found.values())
    assert not found["unused"].any()
