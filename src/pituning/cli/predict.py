"""Rank the pool's experts by how alike their tasks are to this one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from pituning.card import UNKNOWN
from pituning.cli.backbones import add_backbone_options, given_or_known_backbone
from pituning.cli.embed import as_trained
from pituning.cli.options import add_options, given_options, read_options
from pituning.cli.tasks import pool_named, task_named
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import PoolError, StaleEmbeddingError
from pituning.expert import Expert
from pituning.interpolate.compatible import BUT_IN_DELTA
from pituning.neighborhood import Neighborhood, neighborhood_of, tell_fewer
from pituning.pool import Pool
from pituning.predict import FisherConfig, TaskEmbedding, embed
from pituning.predict.graph import check_count
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
    add_backbone_options(parser, default="the one on the cards of the pool's experts")
    add_options(parser, FisherConfig, title="embedding a task that has no embedding in the pool")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Rank."""
    check_count(options.k)
    task, pool = task_named(options.task), pool_named(options.pool)
    around, config = neighborhood_of(pool), read_options(options, FisherConfig)
    few = task if options.shots is None else task.sample(options.shots, config.seed)
    stored = _stored(task, few, pool, around, config, options)
    own, embedding = stored or _embedded(few, pool, around, config, options)
    refused = around.refusals(own, embedding, options.space)
    found = around.nearest(embedding, options.k, space=options.space, without=refused)
    tell_fewer(found, options.k)
    refused = around.refused_others(refused, embedding)
    neighbors = [{"name": neighbor.name, "similarity": neighbor.similarity} for neighbor in found]
    rows = [(neighbor.name, f"{neighbor.similarity:.4f}") for neighbor in found]
    text = table(f"neighbours of {task.name}", ("expert", "similarity"), rows)
    made = f"embedded {embedding.manner} from {embedding.examples} examples"
    lines = [text] if found else [f"no neighbour of {task.name}: no expert of {options.pool} can be one"]
    lines += [made, *(f"not considered: {reason}" for reason in dict.fromkeys(refused.values()))]
    if not found and any(reason.endswith(BUT_IN_DELTA) for reason in refused.values()):
        lines.append("Plain LoRA experts of any start are mixed with `--space delta`, here and with `tune`.")
    document = {"task": task.name, "neighbors": neighbors, "refused": refused}
    return document | {"at": embedding.at, "examples": embedding.examples}, "\n".join(lines)


def _stored(
    task: Task,
    few: Task,
    pool: Pool,
    around: Neighborhood,
    config: FisherConfig,
    options: argparse.Namespace,
) -> tuple[Expert, TaskEmbedding] | None:
    """The task's own expert in the pool, where that was embedded on these examples, and as the options say.

    One that `--name` names may have been given other shots than the options draw.

    Raises:
        StaleEmbeddingError: if that was embedded on other data, or otherwise.
        PoolError: or is not there, or was trained with another number of shots.
    """
    own = pool.get(options.name) if options.name else around.experts.get(few.name)
    known = around.embeddings.get(own.name) if own else None
    if own and known and _as_wanted(known, around, config, options):
        if known.data == few.fingerprint:
            return own, known
        if options.name and known.source == few.source:
            if options.shots is not None:
                as_trained(task, own, options.shots)
            return own, known
    if options.name:
        must = f"expert {options.name!r} must have been embedded on the data of {options.task}"
        given = "it was not, or with other options" if known else f"{options.pool} has no embedding of it"
        raise StaleEmbeddingError(must, given, "Run `pituning embed`, or leave --name out.")
    return None


def _as_wanted(
    known: TaskEmbedding, around: Neighborhood, config: FisherConfig, options: argparse.Namespace
) -> bool:
    """Whether an embedding is what the options say, or where they say nothing, what the pool has."""
    if given_options(options, FisherConfig):
        return known.config == config.hash
    return bool(options.name) or known.manner == config.manner or not around.compares(config)


def _embedded(
    few: Task, pool: Pool, around: Neighborhood, config: FisherConfig, options: argparse.Namespace
) -> tuple[Expert, TaskEmbedding]:
    """The task at the adapter that the pool's experts began as, and that adapter: nothing is trained.

    Raises:
        PoolError: if the pool is empty or embedded in another way, or the task must have an expert first.
    """
    if not around.experts:
        raise PoolError("a pool must hold experts", f"{options.pool} is empty", "Fill it with `pool build`.")
    backbone = given_or_known_backbone(options, around.backbone_name(), f"the pool {options.pool}")
    if config.where == "expert" or backbone.head_modules(backbone.model):
        must = "a task that is embedded at an expert, or on a model with a head, needs its own in the pool"
        given = f"none of {few.name!r} that was embedded {config.manner} on these examples"
        raise PoolError(must, given, _expert_first(few, around, config, options))
    around.check_manner(config)
    untrained = TrainConfig(epochs=0, init_seed=pool.init_seed)
    own = train_expert(
        backbone,
        replace(few, validation=()),
        untrained,
        name=f"target:{few.name}",
        like=around.typical(backbone, options.space),
    )
    return own, embed(backbone, own, few, config, progress=progress_wanted(options.json))


def _expert_first(few: Task, around: Neighborhood, config: FisherConfig, options: argparse.Namespace) -> str:
    """What to do where a task can be embedded with an expert of its own alone."""
    own = around.experts.get(few.name)
    shots = "" if options.shots is None else f" --shots {options.shots}"
    drawn = f"{shots} --seed {config.seed}" if shots and config.seed and own is None else shots
    how = given_options(options, FisherConfig, prefix="" if own else "fisher")
    verb = f"pituning {'embed' if own else 'train'} {options.task} --pool {options.pool}{drawn}"
    verb = " ".join([verb, *(f"{name} {value}" for name, value in how.items())])
    if own is None:
        return f"Run `{verb} ...` first."
    said = [name for name in how if not (shots and name == "--seed")]  # which draws the shots, too
    by_name = f"`--name {few.name}`"
    if own.card.data not in (few.fingerprint, UNKNOWN):
        fix = "It was trained on other shots: give its own --shots and --seed"
        return f"{fix}." if said else f"{fix}, or {by_name}."
    other = f"leave {' and '.join(said)} out" if said else f"pass {by_name} to take it as it is"
    alike = "other experts are compared where they are embedded alike"
    return f"It was embedded in another way: run `{verb}`, or {other}; {alike}."
