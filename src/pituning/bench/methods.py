"""The methods, by name: each makes something to score from what all of them are given."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from peft.utils.merge_utils import dare_ties, ties
from torch import Tensor, nn

from pituning.bench.contest import Contest, Made, Needs
from pituning.bench.fusion import fused
from pituning.bench.joint import joint
from pituning.bench.lorahub import lorahub
from pituning.bench.merging import Combine, Differences, by_fisher
from pituning.errors import TrainingError
from pituning.expert import Expert
from pituning.interpolate import Mixture, tune
from pituning.pool import Pool
from pituning.predict import embed
from pituning.seed import isolated_seed
from pituning.selection import bare, best_of, validated
from pituning.train import train_expert

log = logging.getLogger(__name__)

# What trains without the target's recipe is trained at its usual rate and at others by this factor.
FACTOR, MOST = 3.0, 4

FULL_RATE = 1e-4
FUSION_RATE = 1e-3
DENSITY = 0.5  # of TIES and DARE: the part of the numbers that is kept


@dataclass(frozen=True)
class Method:
    """One line that says what it does, and how.

    Attributes:
        needs: what it takes of π-Tuning: nothing, the target's own expert, the neighbours too, or all.
        alike: whether it takes experts of one initialisation alone, or (AdapterFusion) of one shape.
        takes_data: whether it takes the data that the experts of a pool were trained on.
    """

    title: str
    make: Callable[[Contest], Made]
    needs: Needs = "neighbors"
    alike: bool = False
    takes_data: Callable[[Pool], bool] = lambda _: False


def _base(contest: Contest) -> nn.Module:
    return bare(contest.backbone, contest.task, contest.pool.init_seed)


def _best_rate(contest: Contest, usual: float, train: Callable[[float], Made]) -> Made:
    """The best on the validation examples: larger rates are tried while they are better, else smaller ones.

    The usual one without validation examples. A rate that diverges is the worst.

    Raises:
        TrainingError: the usual rate diverges, and so do the next ones.
    """
    if not contest.few.validation:
        return train(usual)

    def tried(rate: float) -> tuple[tuple[float, float], Made | TrainingError]:
        try:
            made = train(rate)
        except TrainingError as error:
            return (-math.inf, -math.inf), error
        found = validated(contest.backbone, contest.few, {"": made})[""]
        log.info("learning rate %g: validation loss %.3f", rate, -found.negative_loss)
        return found.merit, made

    first = best = tried(usual)
    for factor in (FACTOR, 1 / FACTOR):
        for power in range(1, MOST + 1):
            found = tried(usual * factor**power)
            if found[0] <= best[0]:
                break
            best = found
        if best is not first:
            break
    if isinstance(best[1], TrainingError):
        raise best[1]
    return best[1]


def _trained(contest: Contest, *, method: str) -> Made:
    """A new adapter of this method, without any other expert."""
    config = replace(contest.config.train, method=method, init_seed=contest.pool.init_seed)
    train = partial(train_expert, contest.backbone, contest.few)
    untrained = train(replace(config, learning_rate=None, epochs=0))
    usual = float(untrained.card.recipe["learning_rate"])
    return _best_rate(contest, usual, lambda rate: train(replace(config, learning_rate=rate)))


def _full(contest: Contest) -> Made:
    """All parameters of the backbone trained."""

    def train(rate: float) -> nn.Module:
        module = copy.deepcopy(bare(contest.backbone, contest.few, contest.pool.init_seed))
        contest.fit(module.requires_grad_(True), rate, contest.config.train)
        return module

    return _best_rate(contest, FULL_RATE, train)


def _fusion(contest: Contest) -> Made:
    """Only the attention over the outputs (and a head) is trained."""

    def train(rate: float) -> nn.Module:
        with isolated_seed(contest.config.seed):
            module = fused(contest)
        contest.fit(module, rate, contest.config.tune)
        return module.eval()

    return _best_rate(contest, FUSION_RATE, train)


def _own(contest: Contest) -> Expert:
    return contest.prediction.own


def _pi(contest: Contest) -> Expert:
    return contest.pi.expert


def _neighbor(contest: Contest) -> Expert:
    """Of the 6k most alike, the best as it is on labelled examples; else the nearest."""
    names = [expert.name for expert in contest.others[: 6 * contest.config.k]]
    alone = {name: contest.mixing.alone(name) for name in names}
    found = validated(contest.backbone, contest.mixing.unseen(contest.few), alone)
    return alone[best_of(found) or names[0]]


def _collapsed(contest: Contest, mixture: Mixture) -> Expert:
    return mixture.collapse(rank=contest.config.rank)


def _average(contest: Contest) -> Expert:
    return _collapsed(contest, contest.mixture(contest.neighbors))


def _average_random(contest: Contest) -> Expert:
    drawn = Random(contest.config.seed).sample(contest.others, min(contest.config.k, len(contest.others)))
    return _collapsed(contest, contest.mixture(drawn))


def _average_all(contest: Contest) -> Expert:
    return _collapsed(contest, contest.mixture(contest.others))


def _tuned(contest: Contest, mixture: Mixture) -> Expert:
    tune(mixture, contest.few, contest.config.tune)
    return _collapsed(contest, mixture)


def _weights(contest: Contest) -> Expert:
    return _tuned(contest, contest.mixture(contest.neighbors))


def _uniform(contest: Contest) -> Expert:
    """As the paper has it: the k nearest, equal weights at the start, and the mixture is always kept."""
    return _tuned(contest, contest.mixture(contest.neighbors, train_experts=True))


def _merged(contest: Contest, combine: Combine) -> Expert:
    own = contest.prediction.own
    experts = [own, *contest.neighbors]
    rows = Differences(contest.backbone, own, experts, init_seed=contest.pool.init_seed)
    return rows.merged(combine, {})


def _ties(contest: Contest) -> Expert:
    return _merged(contest, lambda _, rows: ties(rows, _ones(rows), DENSITY))


def _dare(contest: Contest) -> Expert:
    with isolated_seed(contest.config.seed):
        return _merged(contest, lambda _, rows: dare_ties(rows, _ones(rows), DENSITY))


def _ones(rows: list[Tensor]) -> Tensor:
    return torch.ones(len(rows), device=rows[0].device)


def _lacks_information(pool: Pool) -> bool:
    """Whether a pool does not hold the information at each expert."""
    return any(pool.embedding(name).at != "expert" for name in pool if pool.has_embedding(name))


def _fisher(contest: Contest) -> Expert:
    """Weighed by the information at each expert, of its own task; a pool may hold that of all or of none."""
    config = replace(contest.config.fisher, at="expert")
    found = [contest.pool.embedding(expert.name) for expert in contest.neighbors]
    if any(embedding.at != "expert" for embedding in found):
        pairs = zip(contest.neighbors, contest.neighbor_tasks, strict=True)
        found = [embed(contest.backbone, expert, task, config) for expert, task in pairs]
    own = embed(contest.backbone, contest.prediction.own, contest.few, config)
    return _merged(contest, by_fisher([embedding.components for embedding in (own, *found)]))


METHODS: dict[str, Method] = {
    "base": Method("the backbone as it is", _base, needs=""),
    "expert": Method("the target's own expert", _own, needs="expert"),
    "full": Method("full fine-tuning", _full, needs=""),
    **{
        name: Method(f"{title}, alone", partial(_trained, method=name), needs="")
        for name, title in (
            ("bitfit", "biases (BitFit)"),
            ("lora", "LoRA"),
            ("prompt", "prompt tuning"),
            ("prefix", "prefix tuning"),
            ("adapter", "bottleneck adapter"),
        )
    },
    "neighbor": Method("the best of the 6·k nearest, as it is", _neighbor),
    "average": Method("uniform average of the expert and its neighbours", _average),
    "average-random": Method("uniform average of the expert and k others at random", _average_random),
    "average-all": Method("uniform average of the expert and all others", _average_all),
    "ties": Method("TIES of the expert and its neighbours", _ties, alike=True),
    "dare": Method("DARE (with TIES) of the expert and its neighbours", _dare, alike=True),
    "fisher": Method(
        "Fisher-weighted average of the expert and its neighbours",
        _fisher,
        alike=True,
        takes_data=_lacks_information,
    ),
    "lorahub": Method("LoRAHub: weights without gradients, 40 evaluations", lorahub, alike=True),
    "fusion": Method("AdapterFusion: outputs mixed at run time", _fusion, alike=True),
    "weights": Method("weights learnt, experts frozen", _weights),
    "uniform": Method("the k nearest mixed from equal weights, always kept", _uniform),
    "pi": Method("π-Tuning", _pi, needs="mixture"),
    "joint": Method("joint training with the neighbours' data", joint, takes_data=lambda _: True),
}
