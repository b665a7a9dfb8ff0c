"""Compute the Fisher embedding of a task with its expert in the pool, and store it beside the expert."""

from __future__ import annotations

import argparse
from typing import Any

from pituning.card import UNKNOWN
from pituning.cli.backbones import add_backbone_options, backbone_for
from pituning.cli.options import add_options, read_options
from pituning.cli.tasks import require_own_pool, task_named
from pituning.cli.terminal import progress_wanted
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.pool import Pool
from pituning.predict import FisherConfig, embed
from pituning.task import Task

EXAMPLE = "pituning embed data/sst2 --pool pool --labels sampled"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    parser.add_argument("--pool", required=True, help="pool folder")
    parser.add_argument("--name", help="the expert's name in the pool (default: the task's)")
    add_backbone_options(parser, default="the one on the expert's card")
    parser.add_argument("--shots", type=int, help="the shots that the expert was trained with")
    add_options(parser, FisherConfig, title="embedding")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Embed and store."""
    require_own_pool(options.pool)
    task = task_named(options.task)
    pool = Pool(options.pool)
    expert = pool.get(options.name or task.name)
    backbone = backbone_for(expert, options)
    task = as_trained(task, expert, options.shots)
    config = read_options(options, FisherConfig)
    bar = progress_wanted(options.json)
    embedding = embed(backbone, expert, task, config, init_seed=pool.init_seed, progress=bar)
    pool.add_embedding(expert.name, embedding)
    document = {
        "task": task.name,
        "name": expert.name,
        "examples": embedding.examples,
        "setting": config.setting,
        "at": embedding.at,
    }
    return document, f"embedded {expert.name!r} from {embedding.examples} examples {embedding.manner}"


def as_trained(task: Task, expert: Expert, shots: int | None) -> Task:
    """The examples that the expert was trained on.

    Raises:
        PoolError: if the task's data is not what the card says.
    """
    if shots is not None:
        task = task.sample(shots, int(expert.card.recipe.get("seed", 0)))
    if expert.card.data not in (task.fingerprint, UNKNOWN):
        given = f"the data of task {task.name!r} has changed since, or other --shots were used"
        fix = "Train the expert again with --replace, or give the same --shots (`pituning embed` takes them)."
        if expert.card.task != task.name:
            given = f"task {task.name!r}, and the expert is of {expert.card.task!r}"
            fix = "Name the task that it was trained on."
        raise PoolError(f"expert {expert.name!r} is embedded on the data it was trained on", given, fix)
    return task
