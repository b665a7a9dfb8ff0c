"""Laws of interpolation as pure functions, for whatever numbers, groups and experts."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from small import expert, frozen, lora, same_bits, same_tensors

from pituning.expert import Expert
from pituning.interpolate import Mixture
from pituning.interpolate.delta import low_rank
from pituning.interpolate.weights import interpolate, logits_of, simplex

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
EXPERTS = st.integers(1, 5)
settings.register_profile("laws", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("laws")


def draw(seed: int, k: int, sizes: list[int], spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    alpha = spread * torch.randn(k, len(sizes), generator=generator)
    return alpha, torch.randn(k, sum(sizes), generator=generator)


@given(SEEDS, EXPERTS, SIZES, st.sampled_from([0.1, 3.0, 100.0]))
def test_weights_lie_on_the_simplex(seed: int, k: int, sizes: list[int], spread: float) -> None:
    weights = simplex(draw(seed, k, sizes, spread)[0])
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(len(sizes)))


@given(SEEDS, EXPERTS, SIZES)
def test_mixture_lies_between_the_experts(seed: int, k: int, sizes: list[int]) -> None:
    alpha, experts = draw(seed, k, sizes)
    mixed = torch.cat(interpolate(alpha, experts, sizes))
    assert bool((mixed <= experts.amax(dim=0) + 1e-5).all())
    assert bool((mixed >= experts.amin(dim=0) - 1e-5).all())


@given(SEEDS, EXPERTS, SIZES)
def test_every_group_has_its_own_weights(seed: int, k: int, sizes: list[int]) -> None:
    alpha, experts = draw(seed, k, sizes)
    start = 0
    for group, mixed in enumerate(interpolate(alpha, experts, sizes)):
        weights = [float(w) for w in alpha[:, group].double().softmax(dim=0)]
        for offset, number in enumerate(mixed.tolist()):
            expected = sum(w * float(row[start + offset]) for w, row in zip(weights, experts, strict=True))
            assert abs(number - expected) < 1e-5
        start += sizes[group]


@given(SEEDS, EXPERTS, SIZES, st.data())
def test_one_hot_mixture_is_that_expert_bit_for_bit(
    seed: int, k: int, sizes: list[int], data: st.DataObject
) -> None:
    _, experts = draw(seed, k, sizes)
    chosen = data.draw(st.integers(0, k - 1))
    experts = experts * 10.0 ** data.draw(st.integers(-30, 30))
    one_hot = [float(index == chosen) for index in range(k)]
    mixed = torch.cat(interpolate(logits_of(one_hot, len(sizes)), experts, sizes))
    assert same_bits(mixed, experts[chosen])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(lambda w: sum(w) > 0.1), st.integers(1, 3))
def test_initial_weights_come_back_from_alpha(raw: list[float], groups: int) -> None:
    weights = [w / sum(raw) for w in raw]
    found = simplex(logits_of(weights, groups))
    torch.testing.assert_close(
        found, torch.tensor(weights).unsqueeze(1).repeat(1, groups), atol=1e-6, rtol=1e-5
    )
    assert all(bool((row == 0).all()) for row, weight in zip(found, weights, strict=True) if weight == 0)


@settings(max_examples=15)
@given(SEEDS, EXPERTS, SIZES)
def test_gradients_of_alpha_pass_gradcheck(seed: int, k: int, sizes: list[int]) -> None:
    alpha, experts = (t.double().requires_grad_() for t in draw(seed, k, sizes))
    assert torch.autograd.gradcheck(lambda a, e: torch.cat(interpolate(a, e, sizes)), (alpha, experts))


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_low_rank_is_the_truncated_svd(seed: int, rank: int, rows: int, columns: int, r: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
    new_a, new_b, lost, whole = low_rank(a.double(), b.double(), r)
    dense = b.double() @ a.double()
    singular = torch.linalg.svdvals(dense)
    assert (new_a.shape, new_b.shape) == ((r, columns), (rows, r))
    torch.testing.assert_close(
        (new_b @ new_a - dense).square().sum(), singular[r:].square().sum(), atol=1e-8, rtol=1e-6
    )
    torch.testing.assert_close(torch.tensor(lost).double(), singular[r:].square().sum(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(whole).double(), singular.square().sum(), atol=1e-5, rtol=1e-5)


CACHE: dict[str, Expert] = {name: expert(name, lora(r=1)) for name in "abcd"}


@settings(max_examples=10)
@given(st.permutations("abcd"), st.integers(1, 4), st.sampled_from(["parameters", "delta"]), SEEDS)
def test_order_of_experts_does_not_matter(order: list[str], k: int, space: str, seed: int) -> None:
    names = order[:k]
    drawn = torch.rand(k, generator=torch.Generator().manual_seed(seed))
    weights = dict(zip(names, (drawn / drawn.sum()).tolist(), strict=True))
    found = [
        Mixture(
            frozen(), [CACHE[name] for name in some], space=space, target=names[0], initial=weights
        ).collapse()
        for some in (names, sorted(names))
    ]
    assert same_tensors(*found)
