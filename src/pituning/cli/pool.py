"""Build a pool of many tasks; list, show, add, remove or verify its experts."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from pituning.backbones import load_backbone
from pituning.building import build_pool
from pituning.cli.pictures import require_pictures
from pituning.cli.recipes import add_recipe_option, recipe_of
from pituning.cli.tasks import members, task_named
from pituning.cli.terminal import progress_wanted, table
from pituning.errors import PoolError
from pituning.expert import Expert
from pituning.pool import Pool
from pituning.train import TrainConfig

EXAMPLE = "pituning pool list pool"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("action", choices=("list", "show", "add", "remove", "verify", "build"))
    parser.add_argument("pool", metavar="POOL", help="pool folder")
    parser.add_argument(
        "items",
        metavar="EXPERT|TASK",
        nargs="*",
        help="a name for show and remove, an adapter folder for add, for build task folders, mini20/NAME or "
        "mini20 (all twenty)",
    )
    parser.add_argument("--backbone", help="build: local folder, Hub id, 'ofa-mini' or 'minilm'")
    add_recipe_option(parser)
    parser.add_argument("--name", help="add: the expert's name in the pool (default: its own)")
    parser.add_argument("--replace", action="store_true", help="add: replace the expert of that name")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Dispatch."""
    given = len(options.items)
    if options.action in ("show", "add", "remove") and given != 1:
        raise PoolError(
            f"`pool {options.action}` takes one expert",
            f"{given}",
            f"pituning pool {options.action} POOL EXPERT",
        )
    if options.action in ("list", "verify") and given:
        raise PoolError(
            f"`pool {options.action}` looks at all experts", " ".join(options.items), "Leave them out."
        )
    if options.action == "build":
        return _build(options)
    if options.action == "add":
        return _add(options)
    pool = Pool(options.pool)
    if options.action == "list":
        return _list(pool)
    if options.action == "show":
        card = asdict(pool.get(options.items[0]).card)
        return card, "\n".join(f"{key}: {value}" for key, value in card.items())
    if options.action == "remove":
        pool.remove(options.items[0])
        return {"removed": options.items[0]}, f"removed {options.items[0]!r}"
    faults = pool.verify()
    return {"faults": faults}, "\n".join(faults) or f"{len(pool)} experts, no faults"


def _add(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    expert = Expert.load(options.items[0])
    expert = expert.renamed(options.name) if options.name else expert
    Pool.check_name(expert.name)
    Pool.create(options.pool).add(expert, replace=options.replace)  # last: a mistake leaves no empty pool
    text = f"added {expert.name!r} to {options.pool}; embed it before it is predicted"
    return {"added": expert.name}, text


def _build(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train and embed what is missing."""
    if not options.items or not options.backbone:
        given = "no task" if not options.items else "no --backbone"
        fix = "pituning pool build POOL mini20 --backbone ofa-mini --recipe ofa-mini"
        raise PoolError("`pool build` takes tasks and their --backbone", given, fix)
    tasks = [task_named(name) for item in options.items for name in members(item)]
    for task in tasks:
        Pool.check_name(task.name)
        require_pictures(task)
    recipe = recipe_of(options)
    config = TrainConfig(**recipe.train)
    backbone = load_backbone(options.backbone, settings=recipe.model)
    for task in tasks:
        backbone.check(task)
    pool = Pool.create(options.pool, init_seed=config.init_seed)
    built = build_pool(pool, backbone, tasks, config, progress=progress_wanted(options.json))
    text = f"built {len(built)} of {len(tasks)}, the others were there; {options.pool} holds {len(pool)}"
    return {"built": built, "pool": str(options.pool), "experts": list(pool)}, text


def _list(pool: Pool) -> tuple[dict[str, Any], str]:
    experts = {name: pool.get(name) for name in pool}
    listed = [
        {
            "name": name,
            "task": expert.card.task,
            "method": expert.method,
            "scores": dict(expert.card.scores),
            "embedded": pool.has_embedding(name),
        }
        for name, expert in experts.items()
    ]
    rows = [
        (
            str(entry["name"]),
            str(entry["task"]),
            str(entry["method"]),
            " ".join(f"{k} {v:.4f}" for k, v in experts[str(entry["name"])].card.scores.items()),
            "yes" if entry["embedded"] else "no",
        )
        for entry in listed
    ]
    text = table(str(pool.path), ("expert", "task", "method", "scores", "embedded"), rows)
    return {"pool": str(pool.path), "init_seed": pool.init_seed, "experts": listed}, text
