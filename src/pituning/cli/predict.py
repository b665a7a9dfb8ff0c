"""Rank the pool's experts by how alike their tasks are to this one."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any

from pituning.backbones import load_backbone
from pituning.cli.embed import as_trained
from pituning.cli.options import add_options, read_options
from pituning.cli.tasks import pool_named, task_named
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import PoolError, StaleEmbeddingError
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
        "--shots", type=int, help="of the task, so many examples a class (in all, without classes)"
    )
    parser.add_argument("--backbone", help="default: the one on the cards of the pool's experts")
    add_options(parser, FisherConfig, title="embedding a task that has no embedding in the pool")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rank."""
    task, pool = task_named(options.task), pool_named(options.pool)
    around, config = Neighborhood.of(pool), read_options(options, FisherConfig)
    own, embedding = _stored(task, around, config, options) or _embedded(task, pool, around, config, options)
    refused = around.refusals(own, embedding, options.space)
    found = around.nearest(embedding, options.k, space=options.space, without=refused)
    neighbors = [{"name": neighbor.name, "similarity": neighbor.similarity} for neighbor in found]
    rows = [(neighbor.name, f"{neighbor.similarity:.4f}") for neighbor in found]
    text = table(f"neighbours of {task.name}", ("expert", "similarity"), rows)
    made = f"embedded {embedding.manner} from {embedding.examples} examples"
    lines = [text, made, *(f"not considered: {reason}" for reason in refused.values())]
    document = {"task": task.name, "neighbors": neighbors, "refused": refused}
    return document | {"at": embedding.at, "examples": embedding.examples}, "\n".join(lines)


def _stored(
    task: Task, around: Neighborhood, config: FisherConfig, options: argparse.Namespace
) -> tuple[Expert, TaskEmbedding] | None:
    """The task's own expert in the pool, where that was embedded on this data, and as the options say.

    Raises:
        StaleEmbeddingError: if `--name` names one that was not.
        PoolError: or that was trained with other shots.
    """
    name = options.name or task.name
    known = around.embeddings.get(name)
    chosen = any(entry.name in options for entry in fields(FisherConfig))  # else as the pool has it
    same = known and known.source == task.source and (not chosen or known.config == config.hash)
    if known and same and (options.shots is None or options.name):
        if options.shots is not None:
            as_trained(task, around.experts[name], options.shots)
        return around.experts[name], known
    if options.name:
        must = f"expert {name!r} must have been embedded on the data of {options.task}, with the same options"
        given = "it was not" if known else f"{options.pool} has no embedding of it"
        raise StaleEmbeddingError(must, given, "Run `pituning embed`, or leave --name out.")
    return None


def _embedded(
    task: Task, pool: Pool, around: Neighborhood, config: FisherConfig, options: argparse.Namespace
) -> tuple[Expert, TaskEmbedding]:
    """The task at the adapter that the pool's experts began as, and that adapter: nothing is trained.

    Raises:
        PoolError: if the pool is empty or embedded in another way, or the task must have an expert first.
    """
    if not around.experts:
        raise PoolError("a pool must hold experts", f"{options.pool} is empty", "Fill it with `pool build`.")
    name = options.backbone or around.backbone_name()
    if not name:
        raise PoolError("the backbone must be known", "no expert of the pool names it", "Pass --backbone.")
    backbone = load_backbone(name)
    if config.where == "expert" or backbone.head_modules(backbone.model):
        must = "a task is embedded without an expert only at the untrained adapter, and without a head"
        given = f"{config.manner}, on the {backbone.family} {backbone.name!r}"
        verb, option = ("embed", "--at") if task.name in around.experts else ("train", "--fisher-at")
        place = f" {option} expert" if config.where == "expert" else ""
        fix = f"Run `pituning {verb} {options.task} --pool {options.pool}{place} ...` first."
        raise PoolError(must, given, fix)
    around.check_manner(config)
    few = task if options.shots is None else task.sample(options.shots, config.seed)
    untrained = TrainConfig(epochs=0, init_seed=pool.init_seed)
    own = train_expert(
        backbone,
        replace(few, validation=()),
        untrained,
        name=f"target:{task.name}",
        like=around.typical(backbone),
    )
    return own, embed(backbone, own, few, config, progress=progress_wanted(options.json))
