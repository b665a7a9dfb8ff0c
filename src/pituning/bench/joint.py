"""Joint training on the target's data and its neighbours': what one would do with the data of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pituning.bench.contest import Contest
from pituning.errors import ExpertError
from pituning.evaluation import Evaluation
from pituning.example import Example, first_by_hash
from pituning.expert import attach
from pituning.fit import fit
from pituning.train import evaluate

MOST = 1000  # examples of each neighbour, the first by hash


def joint(contest: Contest) -> nn.Module:
    """A new adapter, trained on as many examples of the target (repeated) as of each neighbour.

    It passes over them as often as a mixture over the target's alone (`contest.config.tune`: of few shots, an
    epoch here has many times the steps). The state that is best on the target's validation examples is kept.

    Raises:
        ConfigError: the data of a neighbour is not in `contest.sources`.
        ExpertError: the tasks have heads of their own.
    """
    backbone, few, own = contest.backbone, contest.few, contest.prediction.own
    if backbone.head_modules(backbone.model):
        must = "tasks that are trained together share all parameters"
        raise ExpertError(must, f"each has a head of its own on {backbone.name!r}", "Leave joint out.")
    others = [*{task.name: task for task in contest.neighbor_tasks}.values()]  # two may be of one task
    parts = [(task, first_by_hash(task.train, MOST)) for task in others]
    most = max([len(few.train), *(len(examples) for _, examples in parts)])
    parts.append((few, list(few.train) * -(-most // len(few.train))))
    task_of = {id(example): task for task, examples in parts for example in examples}
    module: nn.Module = attach(backbone, own.config, labels=few.candidates, seed=contest.pool.init_seed)

    def nll(batch: Sequence[Example]) -> Tensor:
        order, losses = list[int](), list[Tensor]()
        for task in (few, *others):
            rows = [row for row, example in enumerate(batch) if task_of[id(example)] is task]
            if rows:
                order += rows
                inputs = backbone.collate([batch[row] for row in rows], task)
                losses.append(backbone.loss(module, inputs, contest.config.tune.label_smoothing))
        return torch.cat(losses)[torch.tensor(order).argsort()]

    def validate() -> Evaluation:
        return evaluate(backbone, module, few, few.validation)

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [{"params": trained, "lr": own.card.recipe["learning_rate"]}]
    examples = [example for _, some in parts for example in some]
    fit(module, groups, nll, validate if few.validation else None, examples, contest.config.tune)
    return module
