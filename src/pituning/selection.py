"""Which of several experts is best, by the validation examples alone; and what they score in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from torch import nn

from pituning.backbones import Backbone
from pituning.evaluation import Evaluation
from pituning.example import first_by_hash
from pituning.expert import Expert, attach_expert
from pituning.seed import isolated_seed
from pituning.task import Task
from pituning.train import evaluate, score

# Answers are written, to be scored, for so many validation examples at most.
WRITTEN = 64

# So many standard errors that more examples would hardly turn it round.
SURE = 2


def validated(
    backbone: Backbone, task: Task, experts: Mapping[str, Expert | nn.Module], *, written: bool = False
) -> dict[str, Evaluation]:
    """Each expert, or adapted module, on the validation examples; empty where there are none.

    With `written`, free text is written and scored too, for the first `WRITTEN` examples by hash.
    """
    if not task.validation:
        return {}
    few = replace(task, validation=tuple(first_by_hash(task.validation, WRITTEN)))
    found = {}
    for name, expert in experts.items():
        model = attach_expert(backbone, expert) if isinstance(expert, Expert) else expert
        found[name] = evaluate(backbone, model, task, task.validation)
        if written and task.writes:
            found[name] = replace(found[name], score=score(backbone, model, few, "validation"))
    return found


def best_of(found: Mapping[str, Evaluation]) -> str:
    """The one of most merit, the first of equals; "" where there is none."""
    return max(found, key=lambda name: found[name].merit, default="")


@dataclass(frozen=True)
class Lead:
    """By how much one expert is better than another: mean over the examples, and its standard error.

    Of what decides between them: the loss in nats, or the IoU of boxes. The error knows nothing of choices
    that were made with the same examples before.
    """

    mean: float
    error: float
    examples: int

    @classmethod
    def of(cls, one: Evaluation, other: Evaluation) -> Lead:
        """Taken example by example, on the same examples.

        Example:
            >>> lead = Lead.of(Evaluation(0.0, each=(0.5, 0.7, 0.9)), Evaluation(0.0, each=(0.4, 0.5, 0.9)))
            >>> round(lead.mean, 3), round(lead.error, 3), lead.behind
            (0.1, 0.058, False)
        """
        gains = [a - b for a, b in zip(one.each, other.each, strict=True)]
        if not all(map(math.isfinite, gains)):
            return cls(math.inf if one.merit > other.merit else -math.inf, 0.0, len(gains))
        mean = fmean(gains)  # of one example nothing is known: the error is as large as the lead
        error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else abs(mean)
        return cls(mean, error, len(gains))

    @property
    def sure(self) -> bool:
        """Whether it is more than `SURE` standard errors, in either direction."""
        return abs(self.mean) > SURE * self.error

    @property
    def behind(self) -> bool:
        """Whether it is less than nothing by more than its standard error."""
        return self.mean < -self.error


def gives_way(lead: Lead, mixture: Evaluation, expert: Evaluation, *, writes: bool) -> bool:
    """Whether the target's own expert is kept: the mixture is behind by more than a standard error.

    Or, where answers are free text (`writes`), its score is lower: the loss can fall while they get worse.
    Elsewhere a score of few examples says less than what decides.
    """
    return lead.behind or (writes and (mixture.score or 0.0) < (expert.score or 0.0))


def bare(backbone: Backbone, task: Task, seed: int) -> nn.Module:
    """The backbone without an adapter; its head, where it has one, is drawn from `seed`."""
    with isolated_seed(seed):
        return backbone.fresh_module(task.candidates)


def tested(backbone: Backbone, task: Task, experts: Mapping[str, Expert], seed: int) -> dict[str, float]:
    """The metric on the test split, for the `bare` backbone and the expert of each role."""
    if not task.test:
        return {}
    scores = {"base": score(backbone, bare(backbone, task, seed), task)}
    known: dict[str, float] = {}
    for role, expert in experts.items():
        if expert.digest not in known:
            known[expert.digest] = score(backbone, attach_expert(backbone, expert), task)
        scores[role] = known[expert.digest]
    return scores
