"""Rank the pool's experts by how alike their tasks are to this one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from pituning.cli.embed import backbone_of
from pituning.cli.options import add_options, read_options
from pituning.cli.tasks import pool_named, task_named
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.neighborhood import Neighborhood
from pituning.pool import Pool
from pituning.predict import FisherConfig, TaskEmbedding, embed
from pituning.task import Task
from pituning.train import TrainConfig, train_expert

EXAMPLE = "pituning predict data/cr --pool pool -k 3 --shots 16"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    parser.add_argument("--pool", required=True, help="pool folder, or mini20")
    parser.add_argument("--name", help="the task's own expert in the pool (default: the task's name)")
    parser.add_argument("-k", type=int, default=3, help="how many neighbours (default: 3)")
    parser.add_argument(
        "--space", choices=("parameters", "delta"), default="parameters", help="where they will be mixed"
    )
    parser.add_argument(
        "--shots", type=int, help="embed so many examples a class (or in all, without classes)"
    )
    parser.add_argument("--backbone", help="default: the one on the cards of the pool's experts")
    add_options(parser, FisherConfig, title="embedding a task that has no embedding in the pool")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rank."""
    task, pool = task_named(options.task), pool_named(options.pool)
    around, name = Neighborhood.of(pool), options.name or task.name
    if options.name and options.name not in pool:
        fix = "Leave --name out: a task is embedded without an expert, too."
        raise PoolError("the own expert must be in the pool", f"{options.pool} has no {name!r}", fix)
    known = around.embeddings.get(name)
    if known and known.source == task.source and not options.shots:
        own, embedding = around.experts[name], known
    else:
        own, embedding = _embedded(task, pool, around, options)
    refused = around.refusals(own, embedding, options.space)
    found = around.nearest(embedding, options.k, space=options.space, without=refused)
    neighbors = [{"name": neighbor.name, "similarity": neighbor.similarity} for neighbor in found]
    rows = [(neighbor.name, f"{neighbor.similarity:.4f}") for neighbor in found]
    text = table(f"neighbours of {task.name}", ("expert", "similarity"), rows)
    lines = [text, *(f"not considered: {reason}" for reason in refused.values())]
    return {"task": task.name, "neighbors": neighbors, "refused": refused}, "\n".join(lines)


def _embedded(
    task: Task, pool: Pool, around: Neighborhood, options: argparse.Namespace
) -> tuple[Expert, TaskEmbedding]:
    """The task at the adapter that the pool's experts began as, and that adapter: nothing is trained.

    Raises:
        PoolError: if the pool is empty, or the task must have an expert first.
    """
    first = next(iter(around.experts), None)
    if first is None:
        raise PoolError("a pool must hold experts", f"{options.pool} is empty", "Fill it with `pool build`.")
    config = read_options(options, FisherConfig)
    backbone = backbone_of(around.experts[first], options.backbone)
    why = "its embedding would be at the expert" if config.at == "expert" else "it has a head to train first"
    if config.at == "expert" or backbone.head_modules(backbone.model):
        must = f"the task must have an expert in the pool: {why}"
        fix = f"Run `pituning train {options.task} --pool {options.pool}` first, or use `tune`."
        raise PoolError(must, f"{options.pool} has none of {task.name!r} and its data", fix)
    few = replace(task.sample(options.shots, config.seed) if options.shots else task, validation=())
    untrained = TrainConfig(epochs=0, init_seed=pool.init_seed)
    own = train_expert(backbone, few, untrained, name=f"target:{task.name}", like=around.typical(backbone))
    return own, embed(backbone, own, few, config, progress=progress_wanted(options.json))
