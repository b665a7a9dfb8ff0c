"""The methods, by name: each makes something to score from what all of them are given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from peft.utils.merge_utils import dare_ties, ties
from torch import Tensor, nn

from pituning.bench.contest import Contest, Made
from pituning.bench.fusion import fusion
from pituning.bench.lorahub import lorahub
from pituning.bench.merging import Combine, Differences, by_fisher
from pituning.expert import Expert
from pituning.fit import Evaluation
from pituning.interpolate import Mixture, tune
from pituning.predict import embed
from pituning.seed import isolated_seed
from pituning.selection import best_of, validated
from pituning.train import train_expert

# Every method that trains without a recipe of its own is trained at its usual rate and at these multiples of
# it; the best of them on the validation examples is taken.
MULTIPLES = (1.0, 3.0, 1 / 3)

FULL_RATE = 1e-4
DENSITY = 0.5  # of TIES and DARE: the part of the numbers that is kept


@dataclass(frozen=True)
class Method:
    """One line that says what it does, and how."""

    title: str
    make: Callable[[Contest], Made]


def _base(contest: Contest) -> nn.Module:
    with isolated_seed(contest.pool.init_seed):
        return contest.backbone.fresh_module(contest.task.candidates)


def _trained(contest: Contest, *, method: str) -> Expert:
    """A new adapter of this method, without any other expert."""
    base = replace(
        contest.config.train, seed=contest.config.seed, init_seed=contest.pool.init_seed, method=method
    )
    first = train_expert(contest.backbone, contest.few, replace(base, learning_rate=None))
    usual = float(first.card.recipe["learning_rate"])
    tried = {"1": first} | {
        f"{multiple:g}": train_expert(
            contest.backbone, contest.few, replace(base, learning_rate=usual * multiple)
        )
        for multiple in MULTIPLES
        if multiple != 1
    }
    return tried[best_of(contest.few, validated(contest.backbone, contest.few, tried)) or "1"]


def _full(contest: Contest) -> nn.Module:
    """All parameters of the backbone trained."""
    tried: dict[str, tuple[Evaluation | None, nn.Module]] = {}
    for multiple in MULTIPLES:
        with isolated_seed(contest.pool.init_seed):
            module = copy.deepcopy(contest.backbone.fresh_module(contest.few.candidates))
        best = contest.fit(module.requires_grad_(True), FULL_RATE * multiple, contest.config.train)
        tried[f"{multiple:g}"] = best, module
    found = {name: best for name, (best, _) in tried.items() if best}
    return tried[best_of(contest.few, found) or "1"][1]


def _own(contest: Contest) -> Expert:
    return contest.pi.own


def _pi(contest: Contest) -> Expert:
    return contest.pi.expert


def _neighbor(contest: Contest) -> Expert:
    """Of the k most alike the one that validates best, as it is."""
    near = {expert.name: expert for expert in contest.neighbors}
    found = validated(contest.backbone, contest.few, near)
    return near[best_of(contest.few, found) or next(iter(near))]


def _mixture(contest: Contest, others: Sequence[Expert], *, train_experts: bool = False) -> Mixture:
    own = contest.pi.own
    return Mixture(contest.backbone, [own, *others], target=own.name, train_experts=train_experts)


def _average(contest: Contest) -> Expert:
    return _mixture(contest, contest.neighbors).collapse()


def _average_random(contest: Contest) -> Expert:
    drawn = Random(contest.config.seed).sample(contest.others, min(contest.config.k, len(contest.others)))
    return _mixture(contest, drawn).collapse()


def _average_all(contest: Contest) -> Expert:
    return _mixture(contest, contest.others).collapse()


def _weights(contest: Contest) -> Expert:
    mixture = _mixture(contest, contest.neighbors)
    tune(mixture, contest.few, replace(contest.config.tune, seed=contest.config.seed))
    return mixture.collapse()


def _uniform(contest: Contest) -> Expert:
    """As the paper has it: equal weights at the start, and the mixture is kept whatever it validates."""
    mixture = _mixture(contest, contest.neighbors, train_experts=True)
    tune(mixture, contest.few, replace(contest.config.tune, seed=contest.config.seed))
    return mixture.collapse()


def _merged(contest: Contest, combine: Combine) -> Expert:
    return _differences(contest).merged(combine, {})


def _differences(contest: Contest) -> Differences:
    own = contest.pi.own
    return Differences(contest.backbone, own, [own, *contest.neighbors], init_seed=contest.pool.init_seed)


def _ties(contest: Contest) -> Expert:
    return _merged(contest, lambda _, rows: ties(rows, torch.ones(len(rows)), DENSITY))


def _dare(contest: Contest) -> Expert:
    with isolated_seed(contest.config.seed):
        return _merged(contest, lambda _, rows: dare_ties(rows, torch.ones(len(rows)), DENSITY))


def _fisher(contest: Contest) -> Expert:
    own = embed(contest.backbone, contest.pi.own, contest.few, contest.config.fisher)
    others = [contest.pool.embedding(expert.name) for expert in contest.neighbors]
    information: list[dict[str, Tensor]] = [embedding.components for embedding in (own, *others)]
    return _merged(contest, by_fisher(information))


METHODS: dict[str, Method] = {
    "base": Method("the backbone as it is", _base),
    "expert": Method("the target's own expert", _own),
    "full": Method("full fine-tuning", _full),
    **{
        name: Method(f"{title}, alone", partial(_trained, method=name))
        for name, title in (
            ("bitfit", "biases (BitFit)"),
            ("lora", "LoRA"),
            ("prompt", "prompt tuning"),
            ("prefix", "prefix tuning"),
            ("adapter", "bottleneck adapter"),
        )
    },
    "neighbor": Method("the best neighbour as it is", _neighbor),
    "average": Method("uniform average of the expert and the k nearest", _average),
    "average-random": Method("uniform average of the expert and k at random", _average_random),
    "average-all": Method("uniform average of the expert and all others", _average_all),
    "ties": Method("TIES of the expert and the k nearest", _ties),
    "dare": Method("DARE (with TIES) of the expert and the k nearest", _dare),
    "fisher": Method("Fisher-weighted average of the expert and the k nearest", _fisher),
    "lorahub": Method("LoRAHub: weights without gradients, 40 evaluations", lorahub),
    "fusion": Method("AdapterFusion: outputs mixed at run time", fusion),
    "weights": Method("weights learnt, experts frozen", _weights),
    "uniform": Method("π-Tuning as in the paper: from equal weights, always kept", _uniform),
    "pi": Method("π-Tuning", _pi),
}
