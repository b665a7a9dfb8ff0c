"""Which of several experts is best, by the validation examples alone; and what they score in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from pituning.backbones import Backbone
from pituning.expert import Expert, attach_expert
from pituning.fit import Evaluation
from pituning.metrics import METRICS
from pituning.seed import isolated_seed
from pituning.task import Task
from pituning.train import evaluate, score

OVERLAP = "mean_iou"  # what decides where boxes are drawn


def validated(
    backbone: Backbone, task: Task, experts: Mapping[str, Expert | nn.Module]
) -> dict[str, Evaluation]:
    """Each expert, or adapted module, on the validation examples; empty where there are none.

    Where boxes are drawn, the score is their mean IoU.
    """
    if not task.validation:
        return {}
    found = {}
    for name, expert in experts.items():
        model = attach_expert(backbone, expert) if isinstance(expert, Expert) else expert
        found[name] = evaluate(backbone, model, task, task.validation)
        if _draws_boxes(task):
            overlap = score(backbone, model, replace(task, metric=OVERLAP), "validation")
            found[name] = replace(found[name], score=overlap)
    return found


def merit(task: Task, found: Evaluation) -> tuple[float, float]:
    """What decides between two experts, the greater the better: the loss; where boxes are drawn, their IoU.

    A box can be nearly right, which the loss, that asks for the very numbers, does not see; and of few boxes
    the mean overlap says more than how many pass a threshold.
    """
    score = found.score if _draws_boxes(task) and found.score is not None else 0.0
    return (score, found.negative_loss if math.isfinite(found.negative_loss) else -math.inf)


def _draws_boxes(task: Task) -> bool:
    return METRICS[task.metric].gold == "box"


def best_of(task: Task, found: Mapping[str, Evaluation]) -> str:
    """The one of most merit, the first of equals; "" where there is none."""
    return max(found, key=lambda name: merit(task, found[name]), default="")


def decided_by(task: Task, validation: Mapping[str, Evaluation]) -> str:
    """The overlap, where `merit` saw a difference in it; else the loss."""
    scores = {merit(task, found)[0] for found in validation.values()}
    return OVERLAP if len(scores) > 1 else "loss"


def tested(backbone: Backbone, task: Task, stages: Mapping[str, Expert], seed: int) -> dict[str, float]:
    """The metric on the test split, for the bare backbone (a head is drawn from `seed`) and each stage."""
    if not task.test:
        return {}
    with isolated_seed(seed):
        scores = {"base": score(backbone, backbone.fresh_module(task.candidates), task)}
    known: dict[int, float] = {}
    for stage, expert in stages.items():
        if id(expert) not in known:
            known[id(expert)] = score(backbone, attach_expert(backbone, expert), task)
        scores[stage] = known[id(expert)]
    return scores
