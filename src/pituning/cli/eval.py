"""Score an adapter on a split of a task."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from typing import Any

from pituning.captions import JAVA, require_java
from pituning.card import UNKNOWN
from pituning.cli.backbones import add_backbone_options, backbone_for
from pituning.cli.tasks import task_named
from pituning.errors import ExpertError
from pituning.expert import Expert, attach_expert, introduced
from pituning.gold import gold_of
from pituning.metrics import METRICS
from pituning.task import Task

log = logging.getLogger(__name__)

EXAMPLE = "pituning eval data/cr --backbone minilm --expert cr-pi --split test --metric f1"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    parser.add_argument("--expert", required=True, help="adapter folder")
    add_backbone_options(parser, default="the expert's own")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="score by this metric too (may be repeated; the task's own always counts)",
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Predict once, score by every metric."""
    task, expert = task_named(options.task), Expert.load(options.expert)
    if expert.card.task != task.name and expert.card.data != UNKNOWN:
        log.warning("expert %r is of task %s; it is scored on %s", expert.name, expert.card.task, task.name)
    examples = task.split(options.split)
    measured = by_metric(task, options.metric)
    for name in measured:  # before the model runs for long
        gold_of(examples[0], METRICS[name])
        if name in JAVA:
            require_java(name)
    backbone = backbone_for(expert, options)
    backbone.check(task)
    expert = introduced(expert, backbone, task)
    if backbone.head_modules(backbone.model) and not backbone.answers(expert.card.labels, task):
        must = (
            f"the head of an adapter for {task.name} must answer {', '.join(task.candidates)}, in this order"
        )
        given = f"{expert.name} answers {', '.join(expert.card.labels)}"
        raise ExpertError(must, given, "Write the labels of the task file as it was trained with them.")
    predictions = backbone.predict(attach_expert(backbone, expert), examples, task)
    scores = {name: version.score(predictions, examples) for name, version in measured.items()}
    document = {
        "task": task.name,
        "metric": task.metric,
        "score": scores[task.metric],
        **({"scores": scores} if options.metric else {}),
        "n": len(examples),
    }
    found = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    return document, f"{found} on {len(examples)} {options.split} examples of {task.name}"


def by_metric(task: Task, names: list[str]) -> dict[str, Task]:
    """The task as each metric scores it, its own first.

    Raises:
        TaskError: an unknown metric, or one that the task cannot have.
    """
    versions = [task, *(replace(task, metric=name) for name in names)]
    return {version.metric: version for version in versions}
