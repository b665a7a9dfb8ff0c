"""Train one expert for a task, the backbone frozen, and put it with its embedding into a pool."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pituning.building import add_expert
from pituning.cli.backbones import add_backbone_options, given_backbone
from pituning.cli.options import add_options, read_options
from pituning.cli.recipes import add_recipe_option, recipe_of
from pituning.cli.tasks import look_over, require_own_pool, task_named
from pituning.cli.terminal import progress_wanted
from pituning.distributed import from_first
from pituning.errors import PoolError
from pituning.manifest import MANIFEST
from pituning.neighborhood import neighborhood_of
from pituning.pool import Pool
from pituning.predict import FisherConfig
from pituning.train import TrainConfig, check_training

EXAMPLE = "pituning train data/sst2 --backbone minilm --pool pool --method lora --epochs 3"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("task", metavar="TASK", help="task folder, or mini20/NAME")
    add_backbone_options(parser)
    parser.add_argument("--pool", required=True, help="pool folder; made where there is none")
    parser.add_argument("--name", help="the expert's name in the pool (default: the task's)")
    parser.add_argument("--shots", type=int, help="train on so many examples a class")
    parser.add_argument("--replace", action="store_true", help="replace the pool's expert of that name")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of a killed run"
    )
    add_recipe_option(parser)
    add_options(parser, TrainConfig, title="training")
    add_options(parser, FisherConfig, title="embedding", prefix="fisher")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train, embed, store."""
    task = task_named(options.task)
    recipe = recipe_of(options)
    config = read_options(options, TrainConfig, defaults=recipe.train)
    fisher = read_options(options, FisherConfig, prefix="fisher")
    name = options.name or task.name
    _check_place(options, name)
    whole = task
    if options.shots is not None:
        task = whole.sample(options.shots, config.seed)
    look_over(whole)  # whose rows are those of the files
    backbone = given_backbone(options, recipe.model)
    check_training(backbone, config, task, new=not (Path(options.pool) / MANIFEST).is_file())
    # last: a mistake leaves no empty pool
    pool = Pool(from_first(lambda: Pool.create(options.pool, init_seed=config.init_seed).path))
    expert = add_expert(
        pool,
        backbone,
        task,
        config,
        fisher,
        like=neighborhood_of(pool).typical(backbone),
        name=name,
        resume=options.resume,
        overwrite=options.replace,
        progress=progress_wanted(options.json),
    )
    score = expert.card.scores.get("validation")
    document = {
        "task": task.name,
        "name": name,
        "pool": str(options.pool),
        "metric": task.metric,
        "validation": score,
        "best_epoch": expert.card.recipe["best_epoch"],
    }
    loss = expert.card.recipe["validation_loss"]
    shown = "no finite validation loss" if task.validation else "no validation split"
    shown = shown if loss is None else f"validation loss {loss:.4f}"
    shown += "" if score is None else f", {task.metric} {score:.4f}"
    return document, f"expert {name!r} is in {options.pool} ({shown}, epoch {document['best_epoch']})"


def _check_place(options: argparse.Namespace, name: str) -> None:
    """Find what is wrong with the name and the pool before anything is loaded."""
    Pool.check_name(name)
    require_own_pool(options.pool)
    if not (Path(options.pool) / MANIFEST).is_file():
        return
    pool = Pool(options.pool)
    pool.check_free(name, replace=options.replace)
    init_seed = getattr(options, "init_seed", pool.init_seed)
    if init_seed != pool.init_seed:
        raise PoolError(
            "the experts of a pool start from its own --init-seed",
            f"{init_seed}, where {options.pool} has {pool.init_seed}",
            "Leave --init-seed out, or make another pool.",
        )
